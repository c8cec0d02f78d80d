"""Other bit-widths, level sets or grids, and the divisor of old code for uniform activations."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from apot_export.errors import ApotExportError
from apot_export.network.codebook import distinct_levels
from apot_export.network.layers import ActivationQuantizer
from apot_export.original import families
from apot_export.original.quantization import FULL_PRECISION_BITS, METHODS, Quantization
from apot_export.original.quantized_layers import (
    FirstConv2d,
    LastLinear,
    QuantConv2d,
    eight_bit_weight,
)
from apot_export.verification.diagnosis.candidates import agreeing, requantized, varied
from apot_export.verification.diagnosis.causes_weights import explains
from apot_export.verification.diagnosis.differences import (
    ConstantDifference,
    Difference,
    LevelDifference,
    ValueDifference,
    WeightDifference,
    within,
)
from apot_export.verification.proof.forced import level_range

_BITS = range(2, 9)
_EIGHT_BIT_INSTEAD = (2, 3, 4, 5, 6, 7, 16)
_LARGEST_Z = 8
_TERNARY_BITS = 2


def wrong_bits(difference: Difference) -> str | None:
    """What differs is what another bit-width or level set makes of the same numbers."""
    if isinstance(difference, ConstantDifference):
        fitting = _fitting_quantizers(difference)
        what = "the export's activation levels and steps are"
    elif difference.differs.ndim == 0 or not varied(difference):
        return None
    elif isinstance(difference, WeightDifference):
        fitting, what = _fitting_weights(difference), "the export's weights are exactly"
    elif isinstance(difference, LevelDifference):
        fitting = [
            _name(candidate.quantization, weights=False)
            for candidate in _candidates(difference.module, weights=False)
            if _gives_levels(candidate, difference)
        ]
        what = "the export's levels are exactly"
    else:
        return None
    if not fitting:
        return None
    return f"{what} those of {_joined(fitting)}"


def _joined(names: list[str]) -> str:
    """Put several names of one thing together, as level sets that are the same at few bits.

    >>> _joined(["2 bits, apot", "2 bits, pot", "32 bits"])
    '2 bits, apot or pot; or 32 bits'
    """
    sets: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        bits, comma, levels = name.partition(", ")
        sets.setdefault(bits + comma, []).append(levels)
    return "; or ".join(bits + " or ".join(levels) for bits, levels in sets.items())


def _name(quantization: Quantization, *, weights: bool) -> str:
    bits = quantization.weight_bits if weights else quantization.activation_bits
    levels = quantization.method
    if weights and quantization.family == "nonzero" and bits == _TERNARY_BITS:
        levels = "{0, 1}"
        if quantization.grid == "nonzero":
            levels = f"{{2^-{quantization.z}, 1}}"
    return f"{bits} bits, {levels}"


def _candidates(module: QuantConv2d, *, weights: bool) -> Iterator[QuantConv2d]:
    """Yield the layer with every other bit-width, level set and grid that there is."""
    own = module.quantization
    grids: list[tuple[str, int]] = [(own.grid, own.z)]
    if weights and own.family == "nonzero":
        grids = [("zero", own.z), *(("nonzero", z) for z in range(1, _LARGEST_Z + 1))]
    for bits, method, (grid, z) in itertools.product(_BITS, METHODS, grids):
        changes: dict[str, Any] = {"method": method, "grid": grid, "z": z}
        changes["weight_bits" if weights else "activation_bits"] = bits
        has_grid = own.family == "nonzero" and bits == _TERNARY_BITS
        if dataclasses.replace(own, **changes) == own or ((grid, z) != grids[0] and not has_grid):
            continue
        if method not in families.by_name(own.family).methods:
            continue
        try:
            made = requantized(module, **changes)
            families.by_name(own.family).weight_rule(made.quantization)
        except (ApotExportError, RuntimeError):
            continue  # there is no such level set
        yield made


def _fitting_weights(difference: WeightDifference) -> list[str]:
    module = difference.run.module
    latent = module.weight.detach()
    if isinstance(module, QuantConv2d):
        fitting = [
            _name(candidate.quantization, weights=True)
            for candidate in _candidates(module, weights=True)
            if explains(difference, candidate)
        ]
    elif isinstance(module, (FirstConv2d, LastLinear)):
        largest = latent.max()
        rounded = {
            bits: (latent / largest * ((1 << (bits - 1)) - 1)).round()
            for bits in _EIGHT_BIT_INSTEAD
        }
        fitting = [
            f"{bits} bits"
            for bits, integers in rounded.items()
            if _same(difference, integers * (largest / ((1 << (bits - 1)) - 1)), bits, largest)
        ]
    else:
        same = _same(difference, eight_bit_weight(latent), 8, latent.max())
        fitting = ["8 bits, while the original's are floats"] if same else []
    if isinstance(module, (QuantConv2d, FirstConv2d, LastLinear)) and _same(difference, latent):
        fitting.append(f"{FULL_PRECISION_BITS} bits, not quantized")
    return fitting


def _same(
    difference: WeightDifference,
    weights: torch.Tensor,
    bits: int | None = None,
    largest: torch.Tensor | None = None,
) -> bool:
    step = None
    if bits is not None and largest is not None:
        step = float(largest) / ((1 << (bits - 1)) - 1)
    return bool(agreeing(difference, weights.numpy(), step).all())


def _gives_levels(candidate: QuantConv2d, difference: LevelDifference) -> bool:
    around = level_range(candidate, difference.operand)
    low, high = around.lowest.numpy(), around.highest.numpy()
    export = difference.export
    return bool(((low <= export) & (export <= high)).all())


# --- quantizers as the packed file states them ----------------------------------------------------


def _fitting_quantizers(difference: ConstantDifference) -> list[str]:
    module, quantizer = difference.module, difference.quantizer
    if not isinstance(module, QuantConv2d) or quantizer is None:
        return []
    return [
        _name(candidate.quantization, weights=False)
        for candidate in _candidates(module, weights=False)
        if _is_quantizer(candidate, quantizer)
    ]


def _is_quantizer(module: QuantConv2d, quantizer: ActivationQuantizer) -> bool:
    """Tell whether a packed quantizer has a layer's threshold, levels and steps."""
    denominator = module.activation_denominator()
    if module.activation_levels is None:
        levels = np.arange(module.input_denominator() + 1)
    else:
        levels = np.rint(np.unique(module.activation_levels.numpy()).astype(float) * denominator)
    return (
        float(quantizer.alpha) == float(module.act_alpha)
        and quantizer.codebook.denominator == denominator
        and quantizer.input_steps == module.input_denominator()
        and np.array_equal(distinct_levels(quantizer.codebook), levels)
    )


def legacy_divisor(difference: Difference) -> str | None:
    """Uniform activations were divided by the other one of two numbers of steps."""
    module: nn.Module | None = None
    if isinstance(difference, ConstantDifference):
        module = difference.module
    elif isinstance(difference, ValueDifference) and difference.run is not None:
        module = difference.run.module
    if not isinstance(module, QuantConv2d) or module.quantization.method != "uniform":
        return None
    was = module.quantization.legacy_divisor
    other = requantized(module, legacy_divisor=not was)
    if isinstance(difference, ConstantDifference):
        fits = difference.quantizer is not None and _is_quantizer(other, difference.quantizer)
    else:
        fits = (
            difference.differs.ndim > 0 and varied(difference) and _gives_values(other, difference)
        )
    if not fits:
        return None
    right, wrong = (layer.activation_denominator() for layer in (module, other))
    return (
        f"the export divides {module.quantization.activation_bits}-bit activations by {wrong}, as "
        f"code {'since' if was else 'before'} 2021-03-20 does; the original divides by {right}"
    )


def _gives_values(candidate: QuantConv2d, difference: Difference) -> bool:
    if not isinstance(difference, ValueDifference) or difference.run is None:
        return False
    computed = difference.run.first(len(difference.export)).computed(candidate)
    return within(computed, difference.export)
