"""Recognise quantized layers of other codes by their tensors and attributes, and replace them."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from apot_export.errors import BitWidthError, RecognitionError
from apot_export.original import families
from apot_export.original.families import Family
from apot_export.original.layer_facts import LayerFacts
from apot_export.original.quantization import FULL_PRECISION_BITS, TERNARY_BITS, Quantization
from apot_export.original.quantized_layers import (
    FirstConv2d,
    LastLinear,
    LayerT,
    QuantConv2d,
    QuantizedLayer,
    like,
)
from apot_export.original.tracing import is_plain

_FIRST_KINDS = ("FConv2d", "LFC")
"""What `layer_type` says of layers with 8-bit weights and float inputs."""
_WEIGHT_SETS = ("proj_set_weight", "grids", "grid")
_ACTIVATION_SETS = ("proj_set_act", "act_grid")
_RECOGNISED = (
    "plain Conv2d and Linear; act_alpha beside weight_quant.wgt_alpha or weight_alpha; "
    "layer_type FConv2d or LFC"
)

WeightedLayer = nn.Conv2d | nn.Linear


@dataclass(frozen=True, kw_only=True, eq=False)
class ThresholdLayer:
    """A convolution with clipping thresholds, and what its object states about quantization."""

    layer: nn.Conv2d
    family: Family
    weight_alpha: torch.Tensor
    act_alpha: torch.Tensor
    facts: LayerFacts
    other_bits: tuple[int, ...] = ()
    """Bit-widths that its weight quantizer may mean, beside that of the facts."""


def weighted_layers(module: nn.Module) -> Iterator[tuple[str, WeightedLayer]]:
    """Yield every convolution and linear layer by its first dotted name."""
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            yield name, layer


def threshold_layer(name: str, layer: nn.Module, stated: str | None) -> ThresholdLayer | None:
    """Recognise a convolution with clipping thresholds; None for any other layer.

    Args:
        name: The layer's.
        layer: Of the user's network.
        stated: Name of the family, if the user states it.

    Raises:
        RecognitionError: It has one of the two thresholds, or is not a convolution.
    """
    if isinstance(layer, QuantizedLayer) or said_bits(layer, name) == FULL_PRECISION_BITS:
        return None
    inner = getattr(layer, "weight_quant", None)
    in_quantizer = _number(inner, "wgt_alpha")
    weight_alpha = _number(layer, "weight_alpha") if in_quantizer is None else in_quantizer
    act_alpha = _number(layer, "act_alpha")
    if weight_alpha is None and act_alpha is None:
        return None
    if weight_alpha is None or act_alpha is None or not isinstance(layer, nn.Conv2d):
        raise RecognitionError(
            "A layer with a clipping threshold is of no known family.",
            where=name,
            expected=f"a convolution with both thresholds ({_RECOGNISED})",
            got=f"{type(layer).__name__}: {', '.join(layer.state_dict())}",
        )
    weight_key = "weight_alpha" if in_quantizer is None else "weight_quant.wgt_alpha"
    keys = [*layer.state_dict(), "act_alpha", weight_key]
    bits = said_bits(layer, name)
    other_bits: tuple[int, ...] = ()
    inner_bits = said_bits(inner, f"{name}.weight_quant", "w_bit")
    if bits is not None and inner_bits is not None:
        # It counts the bits of magnitudes, or all; its owner's attribute may be out of date.
        if inner_bits not in (bits, bits - 1):
            bits = inner_bits + 1
        other_bits = tuple({inner_bits, inner_bits + 1} - {bits})
    power = getattr(layer, "power", None)
    if power is None and bits != TERNARY_BITS:  # whose weights are rounded in any case
        power = getattr(inner, "power", None)
    return ThresholdLayer(
        layer=layer,
        family=families.recognise([f"{name}.{key}" for key in keys], stated),
        weight_alpha=weight_alpha,
        act_alpha=act_alpha,
        facts=LayerFacts(
            name=name,
            bits=bits,
            power=power if isinstance(power, bool) else None,
            weight_levels=_level_set(_WEIGHT_SETS, layer, inner),
            activation_levels=_level_set(_ACTIVATION_SETS, layer, inner),
        ),
        other_bits=other_bits,
    )


def said_bits(layer: object, name: str, attribute: str = "bit") -> int | None:
    """Return the bit-width that an object states, if it does.

    Raises:
        BitWidthError: It is not a whole number.
    """
    bits = getattr(layer, attribute, None)
    if bits is None:
        return None
    if isinstance(bits, bool) or not isinstance(bits, numbers.Integral):  # numpy's, too
        raise BitWidthError(
            "A layer's bit-width is not a whole number.",
            where=f"{name}.{attribute}",
            got=repr(bits),
        )
    return int(bits)


def float_replacement(name: str, layer: WeightedLayer) -> WeightedLayer | None:
    """Return our own layer for one without thresholds; None where it can stay as it is.

    Raises:
        RecognitionError: It overrides what it computes, and nothing says how.
    """
    if isinstance(layer, QuantizedLayer):
        return None
    if getattr(layer, "layer_type", None) in _FIRST_KINDS:
        return eight_bit_replacement(layer)
    if said_bits(layer, name) == FULL_PRECISION_BITS or "weight" not in layer._parameters:  # noqa: SLF001 - weights that pruning or parametrizations make
        return _made(layer, nn.Conv2d) if isinstance(layer, nn.Conv2d) else _made(layer, nn.Linear)
    if not is_plain(layer):
        raise RecognitionError(
            "A layer of the network computes something that nothing is known of.",
            where=name,
            expected=_RECOGNISED,
            got=f"{type(layer).__name__} with its own forward pass",
            fix="use the training codes' layers or apot_export.original.quantized_layers",
        )
    return None


def eight_bit_replacement(layer: WeightedLayer) -> FirstConv2d | LastLinear:
    """Return a layer with 8-bit weights and float inputs, around a layer's tensors."""
    is_convolution = isinstance(layer, nn.Conv2d)
    made = _made(layer, FirstConv2d) if is_convolution else _made(layer, LastLinear)
    return made.eval().requires_grad_(requires_grad=False)


def threshold_replacement(found: ThresholdLayer, quantization: Quantization | None) -> nn.Conv2d:
    """Return our layer for a convolution with thresholds; without a quantization a plain one."""
    if quantization is None:
        return _made(found.layer, nn.Conv2d)
    thresholds = {"weight_alpha": found.weight_alpha, "act_alpha": found.act_alpha}
    made = _made(found.layer, QuantConv2d, thresholds, quantization=quantization)
    made.reset_level_sets()
    return made


def _made(
    layer: WeightedLayer,
    kind: Callable[..., LayerT],
    thresholds: Mapping[str, torch.Tensor] | None = None,
    **options: Any,
) -> LayerT:
    """Return a layer of another kind with copies of a layer's tensors, on the CPU."""
    tensors = {"weight": layer.weight, "bias": layer.bias}
    tensors |= {key: value.reshape(()) for key, value in (thresholds or {}).items()}
    with torch.device("meta"):
        made = like(layer, kind, **options)
    state = {k: v.detach().cpu().clone() for k, v in tensors.items() if v is not None}
    made.load_state_dict(state, assign=True)
    return made


def _number(holder: object, name: str) -> torch.Tensor | None:
    value = getattr(holder, name, None)
    return value if isinstance(value, torch.Tensor) and value.numel() == 1 else None


def _level_set(names: tuple[str, ...], *holders: object) -> torch.Tensor | None:
    """Return the first level set under one of these names, as float32 on the CPU."""
    for name, holder in itertools.product(names, holders):
        value = getattr(holder, name, None)
        if isinstance(value, torch.Tensor) and value.numel():
            return value.detach().cpu().float()
    return None
