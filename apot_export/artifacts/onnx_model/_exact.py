"""Integers of any width in float32 tensors, every operation on them exact.

float32 is what every runtime computes alike: int64 and float64 become int32 and float32 in some of
them, unasked. It holds the integers below 2^24. Wider ones are sums of parts, each times a power of
two; canonical parts are digits of `DIGIT` bits below a signed last one. The range of every part is
known, and an operation that could leave 2^24 is refused while the graph is built.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts.onnx_model._builder import GraphBuilder
from apot_export.errors import IntegerError
from apot_export.network.bounds import FLOAT32_EXACT

DIGIT = 11
"""Bits of a digit: seven products of two digits add up to less than 2^24."""
LAST = 22
"""Bits of the magnitude of a last digit: the difference of two fits as well."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A float32 tensor of integers from `low` to `high`, times 2 ** shift."""

    tensor: str
    low: int
    high: int
    shift: int = 0

    @property
    def largest(self) -> int:
        """Largest magnitude, without the power of two."""
        return max(abs(self.low), abs(self.high))


Parts = tuple[Part, ...]
"""An integer tensor: the sum of its parts, the lowest first."""


def balanced_digits(values: Iterable[int], bits: int) -> list[NDArray[Any]]:
    """Return digits of integers, the lowest first: int64 arrays, each within ±2 ** (bits - 1).

    >>> [digit.tolist() for digit in balanced_digits([100, -7], 4)]
    [[4, -7], [6, 0]]
    """
    rest = np.array([int(value) for value in values], dtype=object)
    half, digits = 1 << (bits - 1), list[NDArray[Any]]()
    while not digits or rest.any():
        digit = (rest + half) % (2 * half) - half
        digits.append(digit.astype(np.int64))
        rest = (rest - digit) // (2 * half)
    return digits


@dataclass(kw_only=True)
class ExactBuilder(GraphBuilder):
    """A graph of such operations; their nodes are named after what they belong to."""

    place: str = ""
    """Name of what is being built."""
    made: int = 0
    """Tensors made for it so far."""
    parts: dict[str, Parts] = field(default_factory=dict)
    """Every value by its name."""

    # --- one operation ----------------------------------------------------------------------------

    def _made(
        self,
        operator: str,
        inputs: Sequence[Part | str],
        low: int,
        high: int,
        **attributes: Any,
    ) -> Part:
        """Add an operation whose result lies between two integers."""
        if max(abs(low), abs(high)) >= FLOAT32_EXACT:
            raise IntegerError(
                "A value would leave the integers that float32 holds.",
                where=self.place,
                expected=f"a proven magnitude below {FLOAT32_EXACT}",
                got=f"{low} to {high}",
                fix="give fewer fraction bits: --fraction-bits N",
            )
        self.made += 1
        part = Part(tensor=f"{self.place}.step{self.made}", low=low, high=high)
        names = [one.tensor if isinstance(one, Part) else one for one in inputs]
        self._standard(operator, names, part.tensor, **attributes)
        return part

    def _constant(self, values: NDArray[Any] | int) -> Part:
        """Add integers; one of them is shared by the whole graph."""
        array = np.array(values, dtype=np.float32)
        name = f"number_{values}"
        if array.ndim:
            self.made += 1
            name = f"{self.place}.constant{self.made}"
        return Part(
            tensor=self._initializer(name, array), low=int(array.min()), high=int(array.max())
        )

    def _sum(self, terms: Sequence[Part]) -> Part:
        total, *others = terms
        for term in others:
            total = self._made("Add", [total, term], total.low + term.low, total.high + term.high)
        return total

    def _difference(self, one: Part, other: Part) -> Part:
        return self._made("Sub", [one, other], one.low - other.high, one.high - other.low)

    def _product(self, one: Part, other: Part | int) -> Part:
        if other == 1:
            return one
        factor = self._constant(other) if isinstance(other, int) else other
        ends = [a * b for a in (one.low, one.high) for b in (factor.low, factor.high)]
        return self._made("Mul", [one, factor], min(ends), max(ends))

    def _shifted_right(self, part: Part, bits: int) -> Part:
        """Add floor(part / 2 ** bits); a float32 divided by a power of two is not rounded."""
        power = self._initializer(f"two_to_minus_{bits}", np.array(2.0**-bits, dtype=np.float32))
        self.made += 1
        fraction = f"{self.place}.step{self.made}"
        self._standard("Mul", [part.tensor, power], fraction)
        return self._made("Floor", [fraction], part.low >> bits, part.high >> bits)

    def _split(self, part: Part, bits: int) -> tuple[Part, Part]:
        """Return a part's low bits, and the rest shifted down by them."""
        rest = self._shifted_right(part, bits)
        scaled = self._scaled(rest, bits)
        return self._made("Sub", [part, scaled], 0, (1 << bits) - 1), rest

    # --- all parts of an integer ------------------------------------------------------------------

    def _digits(
        self, parts: Iterable[Part], bits: int = DIGIT, last: int = LAST, count: int = 0
    ) -> Parts:
        """Return parts as digits of so many bits, up to a last one that has at most `last` bits.

        `count`: how many digits there are to be; 0 for as many as are needed.
        """
        pending, digits = list(parts), list[Part]()
        while True:
            base = bits * len(digits)
            here = [part for part in pending if part.shift < base + bits]
            pending = [part for part in pending if part.shift >= base + bits]
            here = here or [replace(self._product(pending[0], 0), shift=base)]
            while sum(part.largest << (part.shift - base) for part in here) >= FLOAT32_EXACT:
                here.sort(key=lambda part: part.largest << (part.shift - base))
                widest = here.pop()
                low, rest = self._split(widest, base + bits - widest.shift)
                here.append(replace(low, shift=widest.shift))
                pending.append(replace(rest, shift=base + bits))
            digit = self._sum([self._product(part, 1 << (part.shift - base)) for part in here])
            fits = len(digits) + 1 == count if count else digit.largest <= 1 << last
            if fits and not pending:
                return (*digits, replace(digit, shift=base))
            if digit.low < 0 or digit.high >= 1 << bits:
                digit, rest = self._split(digit, bits)
                pending.append(replace(rest, shift=base + bits))
            digits.append(replace(digit, shift=base))

    def _canonical(self, parts: Iterable[Part], low: int, high: int) -> Parts:
        """Return an integer, known to lie between two, as one part or as few digits as hold it."""
        digits = self._digits(parts)
        count = 1
        if max(-low, high) >= FLOAT32_EXACT:
            while max(-low, high) >> (DIGIT * (count - 1)) >= 1 << LAST:
                count += 1
        lower, upper = digits[: count - 1], digits[count - 1 :]
        total = upper[-1]
        for digit, above in zip(upper[-2::-1], upper[:0:-1], strict=True):
            scaled = self._scaled(total, above.shift - digit.shift)
            ends = (low >> digit.shift, high >> digit.shift)
            total = self._made("Add", [scaled, digit], *ends)
        shift = upper[0].shift
        ends = (max(total.low, low >> shift), min(total.high, high >> shift))
        return (*lower, replace(total, shift=shift, low=ends[0], high=ends[1]))

    def _scaled(self, part: Part, bits: int) -> Part:
        """Return a part times a power of two: exact whatever its size."""
        power = self._constant(1 << bits)
        self.made += 1
        scaled = f"{self.place}.step{self.made}"
        self._standard("Mul", [part.tensor, power.tensor], scaled)
        return replace(part, tensor=scaled)

    def _above(self, digits: Parts, limits: Parts) -> Part:
        """Return 1 where an integer is above another one, digit by digit, and 0 elsewhere.

        A difference that leaves the integers of float32 is rounded, and has its sign all the same.
        """
        found: Part | None = None
        for digit, limit in zip(reversed(digits), reversed(limits), strict=True):
            lowest = digit is digits[0]
            self.made += 1
            difference = Part(tensor=f"{self.place}.step{self.made}", low=-1, high=1)
            self._standard("Sub", [digit.tensor, limit.tensor], difference.tensor)
            if found is not None:
                weighted = self._product(found, 1 << (DIGIT + 1))
                difference = self._made("Add", [weighted, difference], -(1 << 13), 1 << 13)
            low = 0 if lowest else -1
            ends = [self._constant(low).tensor, self._constant(1).tensor]
            found = self._made("Clip", [difference, *ends], low, 1)
        assert found is not None
        return found

    def _chosen(self, mask: Part, ones: Parts, zeros: Parts) -> Parts:
        """Return one integer where the mask is 1, another one where it is 0."""
        chosen = []
        for one, zero in zip(ones, zeros, strict=True):
            moved = self._product(self._difference(one, zero), mask)
            low, high = min(one.low, zero.low), max(one.high, zero.high)
            chosen.append(replace(self._made("Add", [zero, moved], low, high), shift=one.shift))
        return tuple(chosen)

    def _constant_digits(self, values: NDArray[Any] | int, count: int) -> Parts:
        """Add integers as so many digits, the last one signed."""
        rest, digits = np.array(values, dtype=np.int64), []
        for number in range(count):
            low = rest if number == count - 1 else rest & ((1 << DIGIT) - 1)
            constant = self._constant(low if low.ndim else int(low))
            digits.append(replace(constant, shift=DIGIT * number))
            rest = rest >> DIGIT
        return tuple(digits)

    def _requantized(
        self,
        parts: Parts,
        multiplier: Sequence[int],
        offset: Sequence[int],
        shift: int,
        axes: tuple[int, ...],
    ) -> list[Part]:
        """Return (x * multiplier + offset) >> shift, by long multiplication with carries."""
        bits = self._factor_bits(parts, shift)
        x = parts if bits != DIGIT else self._digits(parts, DIGIT, DIGIT)
        pad = -shift % bits
        columns = (shift + pad) // bits
        factors, summands = (
            balanced_digits((value << pad for value in values), bits)
            for values in (multiplier, offset)
        )
        if len(x) == 1:
            self._fold(factors, summands, columns, bits, x[0].largest)
        carry: list[Part] = []
        result = []
        for column in range(max(len(x) + len(factors) - 1, len(summands), columns + 1)):
            terms = [
                self._product(one, self._constant(factors[column - i].reshape(axes)))
                for i, one in enumerate(x)
                if 0 <= column - i < len(factors)
            ]
            added = [self._constant(b.reshape(axes)) for b in summands[column : column + 1]]
            total, carry = self._sum([*terms, *added, *carry]), []
            if column < columns:
                carry = [self._shifted_right(total, bits)]
            else:
                result.append(replace(total, shift=bits * (column - columns)))
        return result

    @staticmethod
    def _factor_bits(parts: Parts, shift: int) -> int:
        """Return the bits of the factor's digits; other than `DIGIT`: x is multiplied whole."""
        largest = parts[0].largest
        # A product, a digit of the summand and the carry of the column before.
        bits = max(0, (FLOAT32_EXACT - largest - 3) // (largest + 1)).bit_length()
        products = math.ceil(largest.bit_length() / DIGIT) * math.ceil(shift / DIGIT)
        if len(parts) == 1 and bits > 1 and math.ceil(shift / bits) <= products:
            return bits
        return DIGIT

    @staticmethod
    def _fold(
        factors: list[NDArray[Any]],
        summands: list[NDArray[Any]],
        columns: int,
        bits: int,
        largest: int,
    ) -> None:
        """Make one digit of those from a column on, where float32 holds the result."""
        rests = [
            sum(digit << (bits * place) for place, digit in enumerate(digits[columns:]))
            for digits in (factors, summands)
        ]
        factor, summand = (int(np.abs(rest).max()) for rest in rests)
        if (factor + 1) * largest + summand + 3 < FLOAT32_EXACT:
            for digits, rest in zip((factors, summands), rests, strict=True):
                digits[columns:] = [np.asarray(rest)] if len(digits) > columns else []
