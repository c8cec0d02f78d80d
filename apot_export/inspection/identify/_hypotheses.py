"""Every way in which a checkpoint of a family may have been quantized."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from apot_export.original.choices import Choices
from apot_export.original.families import Family, by_name
from apot_export.original.level_sets import activation_level_set, weight_level_set
from apot_export.original.quantization import FULL_PRECISION_BITS, Quantization

_LIKELY_EXPONENTS = 4
"""How many values of Z are tried, the smallest first: others are hardly told from a 0 level."""


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """One way in which a checkpoint may have been quantized; activations have the same bits."""

    bits: int
    """Nominal bits of weights and activations; 32 for float."""
    method: str
    grid: str = "zero"
    z: int | None = None
    """Exponent of the non-zero grid; None for a grid with zero."""
    legacy_divisor: bool = False
    normalize_weights: bool = True
    family: str | None = None
    """Name of the training code, which decides about activations and first and last layers."""

    def choices(self) -> Choices:
        """Return the options of `convert` that state it."""
        return Choices(**dataclasses.asdict(self))

    def __str__(self) -> str:
        if self.bits == FULL_PRECISION_BITS:
            return "float"
        parts = [f"{self.bits}-bit {self.method}"]
        if self.z is not None:
            parts.append(f"non-zero grid, Z {self.z}")
        if self.legacy_divisor:
            parts.append("legacy divisor")
        if not self.normalize_weights:
            parts.append("weights not normalised")
        if self.family is not None and by_name(self.family).same_keys_as:
            parts.append(self.family)
        return ", ".join(parts)


def hypotheses(family: Family) -> list[list[Hypothesis]]:
    """Return every quantization that a family's code offers, identical functions in one list.

    >>> from apot_export.original.families import by_name
    >>> [[str(h) for h in same] for same in hypotheses(by_name("apot-v1"))][0]
    ['2-bit apot', '2-bit pot']
    """
    if not family.has_thresholds:
        method = family.methods[0]
        return [[Hypothesis(bits=FULL_PRECISION_BITS, method=method, family=family.name)]]
    merged: dict[object, list[Hypothesis]] = {}
    for normalize, method in itertools.product((True, False), family.methods):
        for bits in family.bit_widths(method):
            for variant in _variants(family, bits, method):
                hypothesis = replace(variant, normalize_weights=normalize)
                merged.setdefault(_function(family, hypothesis), []).append(hypothesis)
    return list(merged.values())


def _variants(family: Family, bits: int, method: str) -> Iterator[Hypothesis]:
    plain = Hypothesis(bits=bits, method=method, family=family.name)
    yield plain
    if family.had_legacy_divisor and method == "uniform":
        yield replace(plain, legacy_divisor=True)
    if family.has_grids(bits):
        for z in family.exponents[:_LIKELY_EXPONENTS]:
            yield replace(plain, grid="nonzero", z=z)


def _function(family: Family, hypothesis: Hypothesis) -> object:
    """Return a key that two hypotheses of a family share only if they compute the same."""
    quantization = Quantization(
        family=family.name,
        weight_bits=hypothesis.bits,
        activation_bits=hypothesis.bits,
        method=hypothesis.method,
        activation_method=family.activation_method(hypothesis.method).value,
        grid=hypothesis.grid,
        z=hypothesis.z or 2,
        legacy_divisor=hypothesis.legacy_divisor,
    )
    # Without a level set the family rounds: by the bit-width and the divisor alone.
    rounding = (hypothesis.bits, hypothesis.legacy_divisor)
    level_sets = (weight_level_set(quantization), activation_level_set(quantization))
    keys = [rounding if levels is None else tuple(levels.tolist()) for levels in level_sets]
    return (*keys, hypothesis.normalize_weights)
