"""Quantized layers of other codes: recognised by what they hold, and replaced by our own."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from apot_export.errors import BitWidthError, RecognitionError
from apot_export.original import families
from apot_export.original.level_sets import activation_level_set, weight_level_set
from apot_export.original.quantization import FULL_PRECISION_BITS, Quantization
from apot_export.original.quantized_layers import (
    FirstConv2d,
    LastLinear,
    QuantConv2d,
    QuantizedLayer,
)
from apot_export.original.tracing import is_plain

_FIRST_KINDS = ("FConv2d", "LFC")
"""What `layer_type` says of layers with 8-bit weights and float inputs."""
_FACTORS = ("factorW", "factorA")
_WEIGHT_SETS = ("proj_set_weight", "grids", "grid")
_ACTIVATION_SETS = ("proj_set_act", "act_grid")
_TERNARY_BITS = 2
_LARGEST_Z = 14
_SAME = 1e-6
"""Largest difference of two spellings of one level."""
_RECOGNISED = (
    "plain Conv2d and Linear; act_alpha beside weight_quant.wgt_alpha or weight_alpha; "
    "layer_type FConv2d or LFC"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ThresholdLayer:
    """A convolution with clipping thresholds, and what its object says of its quantization."""

    name: str
    layer: nn.Conv2d
    family: str
    weight_alpha: torch.Tensor
    act_alpha: torch.Tensor
    bits: int | None
    """Nominal bit-width, of weights and activations; None where the object does not say."""
    power: bool | None
    """Whether levels are powers of two or sums of them; None where the object does not say."""
    weight_levels: torch.Tensor | None
    """Magnitudes of the weights' level set, if the object holds it."""
    activation_levels: torch.Tensor | None

    def fitting(self, base: Quantization) -> list[Quantization]:
        """Return the level sets, among those of the family, that the object allows.

        Args:
            base: The layer's family and bit-widths.
        """
        methods = families.by_name(self.family).methods
        if self.power is not None:
            methods = tuple(m for m in methods if (m != "uniform") == self.power)
        has_grids = self.family == "nonzero" and base.weight_bits == _TERNARY_BITS
        grids = [("zero", base.z)]
        if has_grids:
            grids += [("nonzero", z) for z in range(1, _LARGEST_Z + 1)]
        candidates = [
            dataclasses.replace(base, method=method, grid=grid, z=z)
            for method, (grid, z) in itertools.product(methods, grids)
        ]
        # The sets of one magnitude bit are not used: such weights are rounded.
        compares_weights = base.weight_bits > _TERNARY_BITS or has_grids
        return [
            candidate
            for candidate in candidates
            if candidate.method == "uniform"
            or (
                (not compares_weights or _is_set(self.weight_levels, candidate, weight_level_set))
                and _is_set(self.activation_levels, candidate, activation_level_set)
            )
        ]


def _is_set(held: torch.Tensor | None, candidate: Quantization, make: Any) -> bool:
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


def weighted_layers(module: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """Yield every convolution and linear layer by its first dotted name."""
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            yield name, layer


def threshold_layer(name: str, layer: nn.Module) -> ThresholdLayer | None:
    """Recognise a convolution with clipping thresholds; None for any other layer.

    Raises:
        RecognitionError: It has one of the two thresholds, or is no convolution.
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
    family = "apot-v2" if in_quantizer is None else "apot-v1"
    if any(key.endswith(_FACTORS) for key in layer.state_dict()):
        family = "nonzero"
    bits = said_bits(layer, name)
    power = getattr(layer, "power", None)
    if power is None and bits != _TERNARY_BITS:  # whose weights are rounded in any case
        power = getattr(inner, "power", None)
    return ThresholdLayer(
        name=name,
        layer=layer,
        family=family,
        weight_alpha=weight_alpha,
        act_alpha=act_alpha,
        bits=bits,
        power=power if isinstance(power, bool) else None,
        weight_levels=_level_set(_WEIGHT_SETS, layer, inner),
        activation_levels=_level_set(_ACTIVATION_SETS, layer, inner),
    )


def said_bits(layer: nn.Module, name: str) -> int | None:
    """Return a layer's own bit-width, if it has one.

    Raises:
        BitWidthError: It is no number.
    """
    bits = getattr(layer, "bit", None)
    if bits is not None and (not isinstance(bits, int) or isinstance(bits, bool)):
        raise BitWidthError(
            "A layer's bit-width is no whole number.", where=f"{name}.bit", got=repr(bits)
        )
    return bits


def float_replacement(name: str, layer: nn.Conv2d | nn.Linear) -> nn.Module | None:
    """Return our own layer for one without thresholds; None where it can stay as it is.

    Raises:
        RecognitionError: It overrides what it computes, and nothing says how.
    """
    if isinstance(layer, QuantizedLayer):
        return None
    if getattr(layer, "layer_type", None) in _FIRST_KINDS:
        kind: type[nn.Module] = FirstConv2d if isinstance(layer, nn.Conv2d) else LastLinear
        return _made(layer, kind)
    if said_bits(layer, name) == FULL_PRECISION_BITS:
        return _made(layer, nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear)
    if not is_plain(layer):
        raise RecognitionError(
            "A layer of the network computes something that nothing is known of.",
            where=name,
            expected=_RECOGNISED,
            got=f"{type(layer).__name__} with its own forward pass",
            fix="use the training codes' layers or apot_export.original.quantized_layers",
        )
    return None


def threshold_replacement(found: ThresholdLayer, quantization: Quantization) -> QuantConv2d:
    """Return our own layer around the tensors of a convolution with thresholds."""
    made = _made(
        found.layer,
        QuantConv2d,
        weight_alpha=found.weight_alpha,
        act_alpha=found.act_alpha,
        quantization=quantization,
    )
    if not isinstance(made, QuantConv2d):
        raise TypeError(f"{found.name} became a {type(made).__name__}")
    made.reset_level_sets()
    return made


def _made(
    layer: nn.Conv2d | nn.Linear,
    kind: type[nn.Module],
    *,
    weight_alpha: torch.Tensor | None = None,
    act_alpha: torch.Tensor | None = None,
    **options: Any,
) -> nn.Module:
    tensors = {"weight": layer.weight, "bias": layer.bias}
    alphas = {"weight_alpha": weight_alpha, "act_alpha": act_alpha}
    state = {k: v.detach().cpu().clone() for k, v in tensors.items() if v is not None}
    state |= {k: v.detach().cpu().clone().reshape(()) for k, v in alphas.items() if v is not None}
    names: tuple[str, ...] = ("in_features", "out_features")
    if isinstance(layer, nn.Conv2d):
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
        names += ("dilation", "groups", "padding_mode")
    options |= {name: getattr(layer, name) for name in names}
    with torch.device("meta"):
        made = kind(**options, bias=layer.bias is not None)
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
