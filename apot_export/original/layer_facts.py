"""What the object of a layer states about its quantization, and the quantizations that fit it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from apot_export.errors import BitWidthError
from apot_export.original.families import Family
from apot_export.original.level_sets import activation_level_set, weight_level_set
from apot_export.original.quantization import TERNARY_BITS, Quantization

_SAME = 1e-6
"""Largest difference of two spellings of one level."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerFacts:
    """What the object of a layer states about its quantization; None where it states nothing."""

    name: str
    bits: int | None = None
    """Nominal bits of weights, and of activations unless they have their own."""
    activation_bits: int | None = None
    power: bool | None = None
    """Whether levels are powers of two or sums of them, rather than uniform."""
    weight_levels: torch.Tensor | None = None
    """Magnitudes of the weights' level set, float32 [levels]."""
    activation_levels: torch.Tensor | None = None
    """Likewise, of activations."""


def fitting_quantizations(
    family: Family, layer: LayerFacts, base: Quantization, exponents: Sequence[int]
) -> list[Quantization]:
    """Return a family's quantizations that a layer's object allows, the usual ones first.

    Args:
        family: The family of the layer.
        layer: What its object states.
        base: Bit-widths and options, which all results share.
        exponents: Exponents Z that a grid without zero may have.
    """
    grids = [("zero", base.z)]
    has_grids = family.has_grids(base.weight_bits)
    if has_grids:
        grids += [("nonzero", z) for z in exponents]
    # Other codes hold a level set of 2-bit weights, but round them.
    compared = layer.weight_levels if has_grids or base.weight_bits > TERNARY_BITS else None
    candidates = (
        dataclasses.replace(base, method=method, activation_method=activations, grid=grid, z=z)
        for method, activations, (grid, z) in itertools.product(
            family.methods, family.activation_methods, grids
        )
        if layer.power in (None, method != "uniform")
        and (activations == "uniform" or not base.signed_activations)
    )
    return [
        candidate
        for candidate in candidates
        if _is_set(compared, candidate, weight_level_set)
        and _is_set(layer.activation_levels, candidate, activation_level_set)
    ]


def _is_set(
    held: torch.Tensor | None,
    candidate: Quantization,
    make: Callable[[Quantization], torch.Tensor | None],
) -> bool:
    """Tell whether an object's level set, if it holds one, is that of a quantization.

    Whatever an object holds fits uniform levels: they are rounded, without a set.
    """
    if held is None:
        return True
    try:
        wanted = make(candidate)
    except BitWidthError:
        return False
    if wanted is None:
        return True
    first, second = (torch.tensor(sorted(set(levels.tolist()))) for levels in (held, wanted))
    return first.shape == second.shape and bool((first - second).abs().max() <= _SAME)
