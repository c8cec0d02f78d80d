"""What users and the objects of layers state about quantization, and what fits it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch

from apot_export.errors import BitWidthError
from apot_export.original.choices import Choices
from apot_export.original.families import Family
from apot_export.original.level_sets import activation_level_set, weight_level_set
from apot_export.original.quantization import (
    ACTIVATION_SIGNS,
    EIGHT_BIT,
    FIRST_LAST,
    SIGNED,
    TERNARY_BITS,
    LayerBits,
    Quantization,
)

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


# --- options --------------------------------------------------------------------------------------


def require_applicable(
    family: Family, choices: Choices, where: str | None, *, uniform: bool
) -> None:
    """Raise `BitWidthError` for an option that has no effect on such a network, or no such value.

    Args:
        family: Of the network.
        choices: The user's options.
        where: The network, for the message.
        uniform: Whether activations may have uniform levels.
    """
    levels, multi_bit = family.has_thresholds, family.has_sign_vectors
    of_weights = "weights with clipping thresholds"
    to_float = all(bits.is_float for bits in choices.layer_bits)
    for what, option, said, known in (
        ("sign of activations", "--activation-sign", choices.activation_sign, ACTIVATION_SIGNS),
        ("form of first and last layers", "--first-last", choices.first_last, FIRST_LAST),
    ):
        if said not in (None, *known):
            raise BitWidthError(
                f"There is no such {what}.",
                where=where,
                expected=" or ".join(known),
                got=f"{option} {said}",
            )
    signed = choices.activation_sign == SIGNED
    divides = levels and uniform and not signed
    for option, given, applies, expected in (
        ("--activation-sign", signed, levels and uniform, "uniform activations"),
        ("--activation-sign", choices.activation_sign, levels, "activations with thresholds"),
        ("--legacy-divisor", choices.legacy_divisor, divides, "uniform unsigned activations"),
        ("--no-weight-normalization", not choices.normalize_weights, levels, of_weights),
        ("--layer-bits", choices.layer_bits, levels or to_float, "clipping thresholds"),
        ("--unsigned-zeros", choices.unsigned_zeros, levels, of_weights),
        ("--alpha-terms", choices.alpha_terms, multi_bit, "multi-bit weights"),
        ("--first-last", choices.first_last == EIGHT_BIT, not multi_bit, "no sign vectors"),
    ):
        if given and not applies:
            raise BitWidthError(
                "An option does not apply to the network.",
                where=where,
                expected=expected,
                got=f"{option}; family {family.name}",
                fix=f"leave out {option}",
            )


def layer_exceptions(
    choices: Choices, quantized: Sequence[str], ends: Sequence[str]
) -> dict[str, LayerBits]:
    """Return the bit-widths that the user gave to layers by name; later patterns win.

    Args:
        choices: The user's options.
        quantized: Names of the layers with clipping thresholds.
        ends: Names of the first and the last layer, which a pattern can only leave in float.

    Raises:
        BitWidthError: A pattern matches no layer.
    """
    found: dict[str, LayerBits] = {}
    for exception in choices.layer_bits:
        names = [*quantized, *ends] if exception.is_float else quantized
        matching = [name for name in names if fnmatchcase(name, exception.pattern)]
        if not matching:
            raise BitWidthError(
                "A pattern of layer bit-widths matches no quantized layer.",
                where=exception.pattern,
                expected="one of " + ", ".join(names[:4]) + ", ...",
                fix="correct the pattern; * stands for any characters. First and last layers have "
                "8 bits, or are left in float: 'conv1=32'",
            )
        found |= dict.fromkeys(matching, exception)
    return found
