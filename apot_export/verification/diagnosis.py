"""The probable cause of a difference: which other choice makes the original's layer the export's.

An export holds what one set of choices (bit-widths, level set, divisor, normalisation) made of a
checkpoint. Where it is held to an original of other choices, the same layer is quantized again with
each other choice; a cause is named only where that gives exactly what the export holds, so it is
never guessed.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from apot_export.errors import ApotExportError
from apot_export.network import ActivationQuantizer, CodedLayer, FloatLayer, Layer
from apot_export.network.codebook import distinct_levels
from apot_export.original import families
from apot_export.original.quantization import (
    FULL_PRECISION_BITS,
    METHODS,
    SIGNED,
    TERNARY_BITS,
    UNSIGNED,
)
from apot_export.original.quantized_layers import QuantizedLayer, ThresholdLayer, eight_bit_weight
from apot_export.verification.proof.certificate import activation_levels, quantized_weights

WRONG_BITS, LEGACY_DIVISOR, NORMALISATION = CAUSES = (
    "wrong bits",
    "legacy divisor",
    "missing weight normalisation",
)
"""Known causes of a difference."""

_BITS = range(2, 9)


def probable_cause(module: nn.Module, layer: Layer | None) -> tuple[str | None, str]:
    """Find what explains how a layer of the packed file differs from the original's.

    Args:
        module: The layer of the original.
        layer: The layer of the packed file; None where it has none of that name.

    Returns:
        The cause, of `CAUSES`, or None where no known one reproduces the layer; and the evidence.
    """
    fitting: dict[str, str] = {}
    if layer is not None and isinstance(module, (nn.Conv2d, nn.Linear)):
        original, export = quantized_weights(module), layer.weights()
        if not np.array_equal(original, export):
            fitting = dict(_causes_of_weights(module, layer))
        elif (original.view(np.uint32) != export.view(np.uint32)).any():
            return None, "only signs of zeros differ: see --unsigned-zeros"
        elif isinstance(module, ThresholdLayer) and isinstance(layer, CodedLayer):
            fitting = dict(_causes_of_activations(module, layer.activation))
    if not fitting:
        return None, f"no known cause ({', '.join(CAUSES)}) reproduces what the export holds"
    cause, evidence = next(iter(fitting.items()))
    return cause, evidence + "".join(f"; {other} would fit, too" for other in list(fitting)[1:])


# --- weights --------------------------------------------------------------------------------------


def _causes_of_weights(module: nn.Conv2d | nn.Linear, layer: Layer) -> Iterator[tuple[str, str]]:
    """Yield each cause that reproduces the export's weights, the most specific first, and how."""
    export = layer.weights()
    latent = module.weight.detach().cpu()
    if isinstance(module, ThresholdLayer):
        normalised = module.quantization.normalize_weights
        other = _requantized(module, normalize_weights=not normalised)
        if np.array_equal(quantized_weights(other), export):
            says = "not normalised" if normalised else "normalised, which the original's are not"
            yield (
                NORMALISATION,
                f"the export's weights are exactly those of weights that were {says}",
            )
    if isinstance(module, QuantizedLayer) and isinstance(layer, FloatLayer):
        names = [f"{FULL_PRECISION_BITS} bits, not quantized"]
        names = names if np.array_equal(latent.numpy(), export) else []
    elif isinstance(module, ThresholdLayer):
        names = [
            _name(other)
            for other in _other_weights(module)
            if np.array_equal(quantized_weights(other), export)
        ]
    else:
        eight = np.array_equal(eight_bit_weight(latent).numpy(), export)
        names = ["8 bits, while the original's are floats"] if eight else []
    if names:
        yield WRONG_BITS, f"the export's weights are exactly those of {_joined(names)}"


def _other_weights(module: ThresholdLayer) -> Iterator[ThresholdLayer]:
    """Yield a layer with every other bit-width, level set and grid of its weights."""
    family = families.by_name(module.quantization.family)
    grids = [("zero", 0), *(("nonzero", z) for z in family.exponents)]
    for bits, method in itertools.product(_BITS, METHODS):
        changes: dict[str, Any] = {"weight_bits": bits, "method": method}
        for grid, z in grids if family.has_grids(bits) else grids[:1]:
            yield from _candidate(module, **changes, grid=grid, z=z)


def _name(module: ThresholdLayer) -> str:
    """Return how the level set of a layer's weights is called."""
    quantization = module.quantization
    levels = quantization.method
    if quantization.weight_bits == TERNARY_BITS and module.weight_levels is not None:
        levels = "{0, 1}" if quantization.grid == "zero" else f"{{2^-{quantization.z}, 1}}"
    return f"{quantization.weight_bits} bits, {levels}"


# --- activations ----------------------------------------------------------------------------------


def _causes_of_activations(
    module: ThresholdLayer, quantizer: ActivationQuantizer | None
) -> Iterator[tuple[str, str]]:
    """Yield each cause that reproduces the export's quantizer of activations, and how."""
    if quantizer is None or _quantizes_like(module, quantizer):
        return
    was = module.quantization.legacy_divisor
    other = _requantized(module, legacy_divisor=not was)
    if _quantizes_like(other, quantizer):
        right, wrong = (layer.activation_denominator() for layer in (module, other))
        yield (
            LEGACY_DIVISOR,
            f"the export divides {module.quantization.activation_bits}-bit activations by {wrong}, "
            f"as code {'since' if was else 'before'} 2021-03-20 does; the original divides by "
            f"{right}",
        )
    kinds = [(method, "") for method in METHODS] + [("uniform", SIGNED), ("uniform", UNSIGNED)]
    names = [
        f"{bits} bits, {f'{sign} {method}'.strip()}"
        for bits, (method, sign) in itertools.product(_BITS, kinds)
        for other in _candidate(
            module, activation_bits=bits, activation_method=method, activation_sign=sign
        )
        if _quantizes_like(other, quantizer)
    ]
    if names:
        says = "the export's activation levels and steps are those of"
        yield WRONG_BITS, f"{says} {_joined(names)}"


def _quantizes_like(module: ThresholdLayer, quantizer: ActivationQuantizer) -> bool:
    """Tell whether a packed quantizer has a layer's threshold, levels and steps."""
    return (
        float(quantizer.alpha) == float(module.act_alpha)
        and quantizer.codebook.denominator == module.activation_denominator()
        and quantizer.input_steps == module.input_denominator()
        and np.array_equal(
            distinct_levels(quantizer.codebook), activation_levels(module, quantizer)
        )
    )


def _requantized(module: ThresholdLayer, **changes: Any) -> ThresholdLayer:
    """Return a copy of a layer with other choices.

    Raises:
        BitWidthError: There is no such level set.
    """
    made = copy.deepcopy(module)
    made.quantization = dataclasses.replace(module.quantization, **changes)
    made.reset_level_sets()
    return made


def _candidate(module: ThresholdLayer, **changes: Any) -> Iterator[ThresholdLayer]:
    """Yield a copy of a layer with other choices, unless they are its own or make no level set."""
    own = module.quantization
    other = dataclasses.replace(own, **changes)
    if other == own or other.method not in families.by_name(own.family).methods:
        return
    try:
        yield _requantized(module, **changes)
    except (ApotExportError, RuntimeError):
        return


def _joined(names: list[str]) -> str:
    """Put several names of one thing together, as level sets that are the same at few bits.

    >>> _joined(["2 bits, apot", "2 bits, pot", "32 bits, not quantized"])
    '2 bits, apot or pot; or 32 bits, not quantized'
    """
    sets: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        bits, _, levels = name.partition(", ")
        sets.setdefault(bits, []).append(levels)
    return "; or ".join(f"{bits}, {' or '.join(levels)}" for bits, levels in sets.items())
