"""Multi-bit weights: every group of weights is a sum of scaled sign vectors (bases).

A group's value is sum_i coordinate_i * basis_i with basis_i in {-1, +1}; a group may have any
number of bases, none included. Groups are runs of `group_size` weights of the weight tensor, read
in C order, or with the kernel position before the input channel.

Source: Qu et al., "Adaptive Loss-aware Quantization for Multi-bit Networks", CVPR 2020, section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from apot_export.errors import WeightError
from apot_export.network.bitpack import BLOCK, pack

Shape = tuple[int, ...]
_Float = TypeVar("_Float", bound=np.floating)


@dataclass(frozen=True, kw_only=True, eq=False)
class Planes:
    """The bases of a layer's groups, one bit a weight and basis."""

    shape: Shape
    """Weight shape: [out, in, height, width] or [out, in]."""
    group_size: int
    """Weights of a group."""
    position_major: bool
    """Whether groups run over input channels at a kernel position: [out, height, width, in]."""
    counts: NDArray[np.uint8]
    """Bases of every group, uint8 [groups]."""
    packed: NDArray[np.uint8]
    """Signs of all bases one after the other, one bit a weight, 1 for +1 (see `bitpack`)."""
    coordinates: NDArray[np.float32]
    """Scale of every basis, float32 [bases]."""
    terms: NDArray[np.uint8] | None = None
    """The same as sums of powers of two: uint8 [bases, K], see `term_values`; None: floats only."""

    def _signs(self, first: int, end: int) -> NDArray[np.int8]:
        """Return some bases, int8 [end - first, group_size] of -1 and +1."""
        begin, stop = first * self.group_size, end * self.group_size
        bits = np.unpackbits(self.packed[begin // 8 : (stop + 7) // 8], bitorder="little")
        signs = bits[begin % 8 :][: stop - begin].view(np.int8).reshape(-1, self.group_size)
        signs *= 2
        signs -= 1
        return signs

    def weights(self) -> NDArray[np.float32]:
        """Value of every weight, float32, weight shape."""
        return self.scaled_by(self.coordinates)

    def scaled_by(self, coordinates: NDArray[_Float]) -> NDArray[_Float]:
        """Return the weights that other scales of the bases give, added one after the other.

        The scales are [bases]; the weights have their type and the weight shape.
        """
        weights = np.empty(self.shape, coordinates.dtype)
        # A block of groups fills whole output channels.
        channel, first = math.prod(self.shape[1:]), 0
        least = math.lcm(channel, self.group_size)
        step = max(1, BLOCK // least) * least
        for begin in range(0, weights.size, step):
            counts = self.counts[begin // self.group_size : (begin + step) // self.group_size]
            groups = np.zeros((counts.size, self.group_size), coordinates.dtype)
            ends = np.cumsum(counts, dtype=np.int64)
            signs, scales = self._signs(first, first + int(ends[-1])), coordinates[first:]
            for place in range(int(counts.max())):
                more = np.flatnonzero(counts > place)
                bases = ends[more] - counts[more] + place
                groups[more] += signs[bases] * scales[bases, None]
            some = weights[begin // channel : (begin + step) // channel]
            some[:] = ungrouped(groups, some.shape, position_major=self.position_major)
            first += int(ends[-1])
        return weights

    @property
    def filters(self) -> int:
        """Bases of all groups."""
        return int(self.coordinates.size)

    def storage_bits(self) -> int:
        """Bits of bases and coordinates: 1 a weight and basis; 32, or 8 a term, a coordinate."""
        coordinate = 32 if self.terms is None else 8 * self.terms.shape[1]
        return self.filters * (self.group_size + coordinate)

    def average_bits(self) -> float:
        """Bases per group, which is bits per weight."""
        return self.coordinates.size / self.counts.size


def ungrouped(groups: NDArray[_Float], shape: Shape, *, position_major: bool) -> NDArray[_Float]:
    """Put groups, [groups, group_size], back into a weight tensor."""
    if not position_major:
        return np.ascontiguousarray(groups.reshape(shape))
    out, channels, height, width = shape
    in_order = groups.reshape(out, height * width, channels).transpose(0, 2, 1)
    return np.ascontiguousarray(in_order.reshape(shape))


# --- coordinates as sums of powers of two ---------------------------------------------------------

_SMALLEST_COORDINATE = 2.0**-40
TERM_ZERO = 0
"""The term that adds nothing."""
_EXPONENT_BIAS = 64
_EXACT_BITS = 53
"""Bits of the integers that float64 holds."""
_SIGN = 0x80


def term_values(terms: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the value of every term: 0, or plus or minus 2 ** (low seven bits - 64).

    >>> term_values(np.array([0, 64, 63, 0x80 | 65], dtype=np.uint8)).tolist()
    [0.0, 1.0, 0.5, -2.0]
    """
    exponents = (terms & (_SIGN - 1)).astype(np.int64) - _EXPONENT_BIAS
    values = np.ldexp(np.where(terms & _SIGN, -1.0, 1.0), exponents)
    return np.where(terms == TERM_ZERO, 0.0, values)


def summed_terms(terms: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the sum of every row of terms, rounded to float32 once: [bases, K] to [bases]."""
    sums = np.empty(len(terms), np.float32)
    for first in range(0, len(terms), BLOCK):
        some = terms[first : first + BLOCK]
        exact = term_values(some).sum(axis=1)
        powers = np.where(some == TERM_ZERO, _EXPONENT_BIAS, some & (_SIGN - 1))
        spans = powers.max(axis=1) - powers.min(axis=1) + terms.shape[1].bit_length()
        for row in np.flatnonzero(spans >= _EXACT_BITS):
            exact[row] = _sum_to_round(some[row].tolist())
        sums[first : first + BLOCK] = exact
    return sums


def _sum_to_round(terms: list[int]) -> float:
    """Return a number that float32 rounds as it would the sum, which float64 may not hold."""
    total = sum((-1 if term & _SIGN else 1) << (term & (_SIGN - 1)) for term in terms if term)
    size = abs(total)
    dropped = max(0, size.bit_length() - _EXACT_BITS + 1)
    kept = size >> dropped
    inexact = kept << dropped != size  # an odd last bit is no tie
    return math.copysign(math.ldexp(kept | inexact, dropped - _EXPONENT_BIAS), total)


def as_terms(coordinates: NDArray[np.float32], count: int) -> NDArray[np.uint8]:
    """Write every coordinate as the best sum of at most `count` signed powers of two.

    The non-adjacent form of a number has the fewest signed digits; taking its leading ones, then
    the better neighbour for the last, leaves the smallest remainder.

    Raises:
        WeightError: A coordinate is outside 2 ** -40 to 2 ** 40.
    """
    remainder = coordinates.astype(np.float64)
    magnitudes = np.abs(remainder[remainder != 0])
    if magnitudes.size and not _SMALLEST_COORDINATE <= magnitudes.min() <= magnitudes.max() <= (
        1 / _SMALLEST_COORDINATE
    ):
        raise WeightError(
            "A coordinate is too small or too large to be written as a sum of powers of two.",
            expected=f"{_SMALLEST_COORDINATE:.3g} to {1 / _SMALLEST_COORDINATE:.3g} in magnitude",
            got=f"{magnitudes.min():.3g} to {magnitudes.max():.3g}",
            fix="keep the coordinates as floats: leave out --alpha-terms",
        )
    terms = np.zeros((coordinates.size, count), dtype=np.uint8)
    for column in range(count):
        # The power nearest to the remainder: the mantissa in [0.5, 1) rounds up from 0.75 on.
        mantissa, exponent = np.frexp(np.abs(remainder))
        nearest = np.where(mantissa >= 0.75, exponent, exponent - 1)  # noqa: PLR2004 - see above
        present = np.abs(remainder) >= 2.0**-60
        code = (nearest + _EXPONENT_BIAS).astype(np.int64) | np.where(remainder < 0, _SIGN, 0)
        terms[:, column] = np.where(present, code, TERM_ZERO).astype(np.uint8)
        remainder = remainder - term_values(terms[:, column])
    return terms


def pack_counts(counts: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
    """Pack the number of bases of every group; return the bytes and the bits of one number."""
    bits = max(1, int(counts.max(initial=0)).bit_length())
    return pack(counts, bits), bits
