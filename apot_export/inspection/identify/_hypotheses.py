"""Every way in which a checkpoint of a family may have been quantized."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, replace

from apot_export.original.choices import Choices
from apot_export.original.families import Family, by_name
from apot_export.original.level_sets import activation_level_set, weight_level_set
from apot_export.original.quantization import FULL_PRECISION_BITS, Quantization
from apot_export.original.witness import Weights, weight_variants


@dataclass(frozen=True, kw_only=True)
class Hypothesis(Weights):
    """One way in which a checkpoint may have been quantized; activations have the same bits."""

    legacy_divisor: bool = False
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
    for normalize, weights in itertools.product((True, False), weight_variants(family)):
        plain = Hypothesis(**{**vars(weights), "normalize_weights": normalize}, family=family.name)
        divides = family.had_legacy_divisor and weights.method == "uniform" and weights.z is None
        for hypothesis in (plain, replace(plain, legacy_divisor=True))[: 1 + divides]:
            merged.setdefault(_function(family, hypothesis), []).append(hypothesis)
    return list(merged.values())


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
