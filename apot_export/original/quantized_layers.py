"""Quantized layers that compute what the training codes' layers compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from apot_export.errors import RecognitionError
from apot_export.original import families
from apot_export.original.level_sets import activation_level_set, nearest_level, weight_level_set
from apot_export.original.moments import weight_moments
from apot_export.original.quantization import (
    SIGNED,
    TERNARY_BITS,
    UNSIGNED,
    Quantization,
)


def padding_of(layer: nn.Conv2d) -> tuple[int, int] | None:
    """Return the zeros on both sides of height and width; None where the sides differ."""
    if isinstance(layer.padding, tuple):
        return int(layer.padding[0]), int(layer.padding[1])
    if layer.padding == "valid":
        return 0, 0
    height, width = (
        gap * (size - 1) for gap, size in zip(layer.dilation, layer.kernel_size, strict=True)
    )
    return None if height % 2 or width % 2 else (height // 2, width // 2)


def is_plain(layer: nn.Module) -> bool:
    """Tell whether a convolution or linear layer computes what PyTorch's own computes."""
    if "forward" in vars(layer):  # of this one object
        return False
    if isinstance(layer, nn.Conv2d):
        forward, convolve = type(layer).forward, type(layer)._conv_forward  # noqa: SLF001 - overridden by forks
        return forward is nn.Conv2d.forward and convolve is nn.Conv2d._conv_forward  # noqa: SLF001 - likewise
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


def products(
    layer: nn.Module, values: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return what a convolution or linear layer makes of other values, weights and bias."""
    if isinstance(layer, nn.Conv2d):
        return layer._conv_forward(values, weights, bias)  # noqa: SLF001 - pads as the layer does
    return functional.linear(values, weights, bias)


class ThresholdLayer(nn.Module):
    """A layer with quantized weights and, unless its activations have 32 bits, quantized input.

    Attributes:
        weight_alpha: Clipping threshold of the (normalised) weights: a scalar parameter, or one a
            channel, [out, 1, ...].
        act_alpha: Clipping threshold of the input, scalar parameter; None for float inputs.
        quantization: Bit-widths, level set and family.
    """

    weight: torch.Tensor
    bias: Any
    weight_alpha: nn.Parameter
    act_alpha: nn.Parameter
    weight_levels: torch.Tensor | None
    activation_levels: torch.Tensor | None

    def __init__(self, *args: Any, quantization: Quantization, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.quantization = quantization
        self.weight_alpha = nn.Parameter(torch.tensor(3.0))
        alpha = nn.Parameter(torch.tensor(8.0)) if self.quantizes_input else None
        self.register_parameter("act_alpha", alpha)
        # A checkpoint's networks are built on the meta device: nothing to place there.
        if not self.weight_alpha.is_meta:
            self.reset_level_sets()

    @property
    def quantizes_input(self) -> bool:
        """Whether the layer's input is quantized, rather than float."""
        return self.quantization.quantizes_inputs

    @property
    def has_thresholds(self) -> bool:
        """Whether weights and input have one clipping threshold each."""
        is_one = self.weight_alpha.numel() == 1
        return is_one and self.quantizes_input and not self._family.counts_steps

    @property
    def _family(self) -> families.Family:
        return families.by_name(self.quantization.family)

    def reset_level_sets(self) -> None:
        """Make the level sets on the threshold's device; they are constants, not state."""
        made = self.quantizes_input
        for name, level_set in (
            ("weight_levels", weight_level_set(self.quantization)),
            ("activation_levels", activation_level_set(self.quantization) if made else None),
        ):
            placed = None if level_set is None else level_set.to(self.weight_alpha.device)
            self.register_buffer(name, placed, persistent=False)

    def scaled_weight(self) -> torch.Tensor:
        """Return what the levels are chosen for: float32 in [-1, 1], or in steps, weight shape."""
        weight = self.weight
        if self.quantization.normalize_weights:
            mean, deviation = weight_moments(weight)
            weight = weight.add(-mean).div(deviation)
        scaled = weight.div(self.weight_alpha)
        if self._family.counts_steps:
            steps = 2 ** (self.quantization.weight_bits - 1)
            return scaled.clamp(min=-steps, max=steps - 1)
        return scaled.clamp(min=-1, max=1)

    def quantized_weight(self) -> torch.Tensor:
        """Return the quantized weights, float32, weight shape."""
        scaled = self.scaled_weight()
        if self._family.counts_steps:
            return scaled.round().mul(self.weight_alpha) + 0.0
        if self.weight_levels is not None:
            levels = nearest_level(scaled.abs(), self.weight_levels).mul(scaled.sign())
        else:
            steps = 2 ** (self.quantization.weight_bits - 1) - 1
            if self._family.rounds_magnitudes:
                levels = scaled.abs().mul(steps).round().div(steps).mul(scaled.sign())
            else:
                levels = scaled.mul(steps).round().div(steps)
        if self._family.adds_gradient_terms and self.quantization.weight_bits > TERNARY_BITS:
            levels = levels + 0.0  # turns -0 into +0
        weight = levels.mul(self.weight_alpha)
        return weight + 0.0 if self.quantization.unsigned_zeros else weight

    def scaled_input(self, image: torch.Tensor) -> torch.Tensor:
        """Return what the input's levels are chosen for: float32 up to 1, the input's shape.

        It is at least 0 or, where activations are signed, about -1; some codes clip at 1 alone.
        """
        signed = (self.lowest_level() or 0) / self.input_denominator()
        lowest = {SIGNED: signed, UNSIGNED: 0}.get(self.quantization.activation_sign)
        if lowest is None and not self._family.rounds_magnitudes:
            lowest = 0
        return image.div(self.act_alpha).clamp(min=lowest, max=1)

    def quantized_input(self, image: torch.Tensor) -> torch.Tensor:
        """Return the quantized input, float32, the input's shape; a float input as it is."""
        if not self.quantizes_input:
            return image
        scaled = self.scaled_input(image)
        if self.activation_levels is not None:
            levels = nearest_level(scaled, self.activation_levels)
        else:
            levels = scaled.mul(self.input_denominator()).round().div(self.activation_denominator())
        return levels.mul(self.act_alpha)

    def activation_denominator(self) -> int:
        """Return the number of output steps that make up the activation's threshold."""
        bits = self.quantization.activation_bits
        if self.activation_levels is not None:
            positive = self.activation_levels[self.activation_levels > 0]
            return round(1 / float(positive.min()))
        # Code older than 2021-03-20 divided by the weights' number of steps.
        return 2 ** (bits - 1) - 1 if self.quantization.legacy_divisor else self.input_denominator()

    def input_denominator(self) -> int:
        """Return the number of input steps between 0 and the activation's threshold."""
        if self.activation_levels is not None:
            return self.activation_denominator()
        sign_bits = int(self.quantization.signed_activations)
        return int(2 ** (self.quantization.activation_bits - sign_bits) - 1)

    def lowest_level(self) -> int | None:
        """Return the lowest level of the input; None where negative inputs pass unclipped."""
        if self.quantization.signed_activations:
            return -self.input_denominator() - int(self._family.counts_steps)
        lets_pass = self.activation_levels is None and self._family.rounds_magnitudes
        return None if lets_pass and not self.quantization.activation_sign else 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Multiply the quantized input with the quantized weights, as the plain layer does."""
        return products(self, self.quantized_input(image), self.quantized_weight(), self.bias)


class QuantConv2d(ThresholdLayer, nn.Conv2d):
    """A convolution with quantized weights."""


class QuantLinear(ThresholdLayer, nn.Linear):
    """A linear layer with quantized weights."""


def eight_bit_weight(weight: torch.Tensor) -> torch.Tensor:
    """Quantize weights of a first or last layer to integers / 127 * their signed maximum."""
    maximum = weight.max()
    return weight.div(maximum).mul(127).round().div(127).mul(maximum)


class EightBitLayer(nn.Module):
    """A layer with 8-bit weights and float input."""

    weight: torch.Tensor
    bias: Any

    def quantized_weight(self) -> torch.Tensor:
        """Return the quantized weights, float32, weight shape."""
        return eight_bit_weight(self.weight)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Multiply a float input with the quantized weights, float32, as the plain layer does."""
        return products(self, image, self.quantized_weight(), self.bias)


class FirstConv2d(EightBitLayer, nn.Conv2d):
    """A first convolution: 8-bit weights, float input."""


class LastLinear(EightBitLayer, nn.Linear):
    """A last linear layer: 8-bit weights, float input and bias."""


QuantizedLayer = (QuantConv2d, QuantLinear, FirstConv2d, LastLinear)
"""Layers whose weights are not what the state dict says."""


# --- dressing a plain network ---------------------------------------------------------------------


def dress(
    module: nn.Module, quantized: Mapping[str, Quantization], eight_bit: Iterable[str]
) -> None:
    """Replace plain layers of a network by quantized ones of the same shape, in place.

    Args:
        module: A network of plain PyTorch layers.
        quantized: Quantization of each convolution that has thresholds, by dotted name.
        eight_bit: Names of the layers with 8-bit weights and float inputs.

    Raises:
        RecognitionError: A name is not that of a layer of the right kind.
    """
    layers = dict(module.named_modules())
    for name, quantization in quantized.items():
        layer = layers.get(name)
        if type(layer) is not nn.Conv2d:
            raise RecognitionError(
                "A layer with clipping thresholds is not a convolution of the network.",
                where=name,
                expected="Conv2d",
                got=type(layer).__name__ if layer is not None else "no such layer",
            )
        module.set_submodule(name, like(layer, QuantConv2d, quantization=quantization))
    for name in eight_bit:
        layer = layers.get(name)
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            kind = FirstConv2d if isinstance(layer, nn.Conv2d) else LastLinear
            module.set_submodule(name, like(layer, kind))


def like(layer: nn.Conv2d | nn.Linear, kind: Callable[..., Any], **options: Any) -> Any:
    """Return a new layer of another kind, with a layer's sizes, strides and padding."""
    names: tuple[str, ...] = ("in_features", "out_features")
    if isinstance(layer, nn.Conv2d):
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
        names += ("dilation", "groups", "padding_mode")
    sizes = {name: getattr(layer, name) for name in names}
    return kind(**sizes, bias=layer.bias is not None, **options)
