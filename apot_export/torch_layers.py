"""The original semantics in PyTorch: what the training code computes in evaluation mode.

Written from the published description of each family and held to the original's own outputs by the
tests. It derives its level sets from float sums of powers of two and shares nothing with
`apot_export.encode`, so that `verify` compares two independent derivations.

Source: Li, Dong and Wang, "Additive Powers-of-Two Quantization", ICLR 2020.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from apot_export.quantization import FULL_PRECISION_BITS, Quantization

_TERM_EXPONENTS: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((1, 2, 3),),
    3: ((1, 2, 4), (3,)),
    4: ((1, 3, 5), (2, 4, 6)),
    5: ((1, 3, 6), (2, 4, 7), (5,)),
    6: ((1, 4, 7), (2, 5, 8), (3, 6, 9)),
}
"""Per magnitude bits and per term: the k of the addends 2 ** -k that may be chosen beside 0."""


def additive_level_set(magnitude_bits: int) -> torch.Tensor:
    """Return the unit level set, float32 [2 ** magnitude_bits], in the original's order.

    The original collects its sums in a Python set, whose iteration order then breaks ties; so does
    this.
    """
    rows = [[0.0, *(2.0**-k for k in term)] for term in _TERM_EXPONENTS[magnitude_bits]]
    # The original always loops over three rows; absent ones hold 0 alone.
    rows += [[0.0]] * (3 - len(rows))
    sums = torch.tensor(list({sum(choice) for choice in itertools.product(*rows)}))
    return sums.mul(1.0 / torch.max(sums))


def nearest_level(values: torch.Tensor, level_set: torch.Tensor) -> torch.Tensor:
    """Project values onto the first nearest entry of a level set, any shape, float32."""
    flat = values.reshape(-1)
    distances = (flat.unsqueeze(0) - level_set.unsqueeze(1)).abs()
    return level_set[distances.min(dim=0)[1]].view(values.shape)


class QuantConv2d(nn.Conv2d):
    """A convolution with quantized weights and quantized input.

    Attributes:
        weight_alpha: Clipping threshold of the normalised weights, scalar parameter.
        act_alpha: Clipping threshold of the input, scalar parameter.
        quantization: Bit-widths, level set and family.
    """

    weight_levels: torch.Tensor
    activation_levels: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        quantization: Quantization,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False
        )
        self.quantization = quantization
        self.weight_alpha = nn.Parameter(torch.tensor(3.0))
        self.act_alpha = nn.Parameter(torch.tensor(8.0))
        self.additive_weights = quantization.method == "apot" and quantization.weight_bits > 2  # noqa: PLR2004 - 2 bits are ternary
        self.reset_level_sets()

    def reset_level_sets(self) -> None:
        """Make the level sets on the threshold's device, or anew where `meta` held no values."""
        device = self.weight_alpha.device
        weights = activations = torch.empty(0)
        if device.type != "meta" and self.additive_weights:
            weights = additive_level_set(self.quantization.weight_bits - 1)
        if device.type != "meta" and self.quantization.method == "apot":
            activations = additive_level_set(self.quantization.activation_bits)
        self.register_buffer("weight_levels", weights.to(device), persistent=False)
        self.register_buffer("activation_levels", activations.to(device), persistent=False)

    def quantized_weight(self) -> torch.Tensor:
        """Return the quantized weights, float32, weight shape."""
        weight = self.weight.add(-self.weight.mean()).div(self.weight.std())
        scaled = weight.div(self.weight_alpha).clamp(min=-1, max=1)
        if self.additive_weights:
            levels = nearest_level(scaled.abs(), self.weight_levels).mul(scaled.sign())
        else:
            steps = 2 ** (self.quantization.weight_bits - 1) - 1
            if self.quantization.family == "apot-v1":
                levels = scaled.abs().mul(steps).round().div(steps).mul(scaled.sign())
            else:
                levels = scaled.mul(steps).round().div(steps)
        return levels.mul(self.weight_alpha)

    def quantized_input(self, image: torch.Tensor) -> torch.Tensor:
        """Return the quantized input, float32, the input's shape."""
        lowest = None if self.quantization.family == "apot-v1" else 0
        scaled = image.div(self.act_alpha).clamp(min=lowest, max=1)
        if self.quantization.method == "apot":
            levels = nearest_level(scaled, self.activation_levels)
        else:
            steps = 2**self.quantization.activation_bits - 1
            levels = scaled.mul(steps).round().div(steps)
        return levels.mul(self.act_alpha)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Convolve the quantized input with the quantized weights: float32 N C H W to N C H W."""
        return self._conv_forward(self.quantized_input(image), self.quantized_weight(), self.bias)


def eight_bit_weight(weight: torch.Tensor) -> torch.Tensor:
    """Quantize weights of a first or last layer to integers / 127 * their signed maximum."""
    maximum = weight.max()
    return weight.div(maximum).mul(127).round().div(127).mul(maximum)


class FirstConv2d(nn.Conv2d):
    """A first convolution: 8-bit weights, float input."""

    def quantized_weight(self) -> torch.Tensor:
        """Return the quantized weights, float32, weight shape."""
        return eight_bit_weight(self.weight)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Convolve a float image with the quantized weights: float32 N C H W to N C H W."""
        return self._conv_forward(image, self.quantized_weight(), self.bias)


class LastLinear(nn.Linear):
    """A last linear layer: 8-bit weights, float input and bias."""

    def quantized_weight(self) -> torch.Tensor:
        """Return the quantized weights, float32 [out, in]."""
        return eight_bit_weight(self.weight)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Multiply float features with the quantized weights: float32 [N, in] to [N, out]."""
        return functional.linear(features, self.quantized_weight(), self.bias)


QuantizedLayer = (QuantConv2d, FirstConv2d, LastLinear)
"""Layers whose weights are not what the state dict says."""


@dataclass(frozen=True, kw_only=True)
class LayerFactory:
    """Makes the layers of an architecture for one kind of quantization."""

    quantization: Quantization

    def convolution(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1
    ) -> nn.Conv2d:
        """Return an inner convolution without bias, padded so that stride 1 keeps the size."""
        padding = kernel_size // 2
        if self.quantization.weight_bits == FULL_PRECISION_BITS:
            return nn.Conv2d(
                in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False
            )
        return QuantConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            quantization=self.quantization,
        )

    def first_convolution(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1
    ) -> nn.Conv2d:
        """Return the network's first convolution, without bias."""
        return FirstConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=False,
        )

    def last_linear(self, in_features: int, out_features: int) -> nn.Linear:
        """Return the network's last layer."""
        return LastLinear(in_features, out_features)
