"""Quantized layers in the forms that other people's codes give them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support.training_codes import levels, nearest, normalised

CHANNELS = 8


def number(value: float, shape: tuple[int, ...] = ()) -> nn.Parameter:
    return nn.Parameter(torch.full(shape, value))


def rounded(values: Tensor, alpha: Tensor, steps: int, lowest: int = 0) -> Tensor:
    """Clip at a threshold, and round to steps of it."""
    return (values / alpha * steps).clamp(lowest, steps).round() / steps * alpha


def stepped(values: Tensor, step: Tensor, lowest: int, highest: int) -> Tensor:
    """Round to a learned step."""
    return (values / step).clamp(lowest, highest).round() * step


class ApotLinear(nn.Linear):
    """Both thresholds beside the weight, each of shape [1]."""

    def __init__(self, inputs: int, outputs: int, bit: int = 4) -> None:
        super().__init__(inputs, outputs)
        self.bit = bit
        self.weight_alpha, self.act_alpha = number(2.1, (1,)), number(1.7, (1,))

    def forward(self, features: Tensor) -> Tensor:
        values = nearest((features / self.act_alpha).clamp(0, 1), levels(self.bit))
        weight = normalised(self.weight, self.weight_alpha)
        weight = nearest(weight.abs(), levels(self.bit - 1)) * weight.sign() * self.weight_alpha
        return functional.linear(values * self.act_alpha, weight, self.bias)


class WeightsOnly(nn.Conv2d):
    """Quantized weights, float input."""

    def __init__(self, *args: Any, bits: int = 4, grid: Tensor | None = None) -> None:
        super().__init__(*args)
        self.bits = np.int64(bits)
        self.grid_of_weights = levels(bits - 1) if grid is None else grid
        self.alpha = number(0.21)

    def forward(self, image: Tensor) -> Tensor:
        scaled = (self.weight / self.alpha).clamp(-1, 1)
        weight = nearest(scaled.abs(), self.grid_of_weights) * scaled.sign() * self.alpha
        return self._conv_forward(image, weight, self.bias)


class WeightsOnlyLinear(nn.Linear):
    """Rounded weights, float input."""

    def __init__(self, *args: Any, bits: int = 3) -> None:
        super().__init__(*args)
        self.nbit = torch.tensor(bits)
        self.w_scale = number(0.31)

    def forward(self, features: Tensor) -> Tensor:
        steps = 2 ** (int(self.nbit) - 1) - 1
        weight = rounded(self.weight, self.w_scale, steps, -steps)
        return functional.linear(features, weight, self.bias)


class Steps(nn.Conv2d):
    """Learned step sizes."""

    def __init__(
        self, *args: Any, nbit: Any = 4, signed: bool = False, narrow: bool = False
    ) -> None:
        super().__init__(*args)
        self.nbit, self.signed, self.narrow = nbit, signed, narrow
        self.step_size_w, self.step_size_a = number(0.04), number(0.11)

    def forward(self, image: Tensor) -> Tensor:
        half = 2 ** (int(self.nbit) - 1)
        ends = (-half, half - 1) if self.signed else (0, 2 * half - 1)
        values = stepped(image, self.step_size_a, *ends)
        weight = stepped(self.weight, self.step_size_w, int(self.narrow) - half, half - 1)
        return self._conv_forward(values, weight, self.bias)


class StepQuantizer(nn.Module):
    """One learned step, and the ends of its levels."""

    def __init__(self, lowest: int, highest: int, step: float) -> None:
        super().__init__()
        self.thd_neg, self.thd_pos = lowest, highest
        self.s = number(step, (1,))

    def forward(self, values: Tensor) -> Tensor:
        return stepped(values, self.s, self.thd_neg, self.thd_pos)


class StepsInParts(nn.Conv2d):
    """Learned steps in modules of their own; nothing states the bits."""

    def __init__(self, *args: Any, bits: int = 3) -> None:
        super().__init__(*args)
        half = 2 ** (bits - 1)
        self.quan_w_fn = StepQuantizer(-half, half - 1, 0.06)
        self.quan_a_fn = StepQuantizer(0, 2 * half - 1, 0.3)

    def forward(self, image: Tensor) -> Tensor:
        weight = self.quan_w_fn(self.weight)
        return self._conv_forward(self.quan_a_fn(image), weight, self.bias)


class StepsLinear(nn.Linear):
    """Learned steps in a linear layer, of weights and inputs of different widths."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.w_bits, self.a_bits = 4, 8
        self.s_w, self.s_a = number(0.05), number(0.02)

    def forward(self, features: Tensor) -> Tensor:
        weight = stepped(self.weight, self.s_w, -8, 7)
        return functional.linear(stepped(features, self.s_a, 0, 255), weight, self.bias)


class Mixed(nn.Conv2d):
    """Additive powers of two of weights that are not normalised, rounded inputs."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.bits = 4
        self.alpha_w, self.alpha_a = number(0.17), number(1.3)

    def forward(self, image: Tensor) -> Tensor:
        scaled = (self.weight / self.alpha_w).clamp(-1, 1)
        weight = nearest(scaled.abs(), levels(3)) * scaled.sign() * self.alpha_w
        return self._conv_forward(rounded(image, self.alpha_a, 15), weight, self.bias)


class Channelwise(nn.Conv2d):
    """A threshold of weights for each output channel, one of inputs for all."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.bits = 4
        outputs = self.out_channels
        self.weight_alpha = nn.Parameter(torch.linspace(0.11, 0.29, outputs).view(-1, 1, 1, 1))
        self.act_alpha = number(1.1, (1, self.in_channels, 1, 1))

    def quantized_weight(self) -> Tensor:
        scaled = (self.weight / self.weight_alpha).clamp(-1, 1)
        return nearest(scaled.abs(), levels(3)) * scaled.sign() * self.weight_alpha

    def forward(self, image: Tensor) -> Tensor:
        values = rounded(image, self.act_alpha, 15)
        return self._conv_forward(values, self.quantized_weight(), self.bias)


class ChannelSteps(nn.Linear):
    """A step of weights for each output."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.w_bits = 3
        self.scale = nn.Parameter(torch.linspace(0.05, 0.12, self.out_features))

    def quantized_weight(self) -> Tensor:
        return stepped(self.weight, self.scale[:, None], -4, 3)

    def forward(self, features: Tensor) -> Tensor:
        return functional.linear(features, self.quantized_weight(), self.bias)


class InputChannels(Channelwise):
    """A threshold for each channel of the input."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.act_alpha.data[0, 0] = 1.4


class Pact(nn.Module):
    """A clipped and rounded ReLU."""

    def __init__(self, bits: int = 4, alpha: float = 1.3) -> None:
        super().__init__()
        self.bits, self.alpha = bits, number(alpha)

    def forward(self, values: Tensor) -> Tensor:
        clipped = 0.5 * (values.abs() - (values - self.alpha).abs() + self.alpha)
        steps = 2**self.bits - 1
        return (clipped * steps / self.alpha).round() * self.alpha / steps


class ApotInput(nn.Module):
    """Additive powers of two."""

    def __init__(self) -> None:
        super().__init__()
        self.act_alpha = number(1.9, (1,))

    def forward(self, values: Tensor) -> Tensor:
        return nearest((values / self.act_alpha).clamp(0, 1), levels(3)) * self.act_alpha


class Shared(nn.Module):
    """Two layers behind one quantizer."""

    def __init__(self) -> None:
        super().__init__()
        self.quantize = Pact()
        self.left, self.right = WeightsOnly(8, 8, 3), WeightsOnly(8, 8, 3, bits=3)

    def forward(self, values: Tensor) -> Tensor:
        values = self.quantize(torch.relu(values))
        both: Tensor = self.left(values) + self.right(values)
        return both


class Residual(nn.Module):
    """A shortcut and an average of what a quantizer makes."""

    def __init__(self) -> None:
        super().__init__()
        self.act1, self.conv1 = Pact(), WeightsOnly(8, 8, 3, 1, 1)
        self.act2, self.conv2 = StepQuantizer(0, 15, 0.1), WeightsOnly(8, 8, 3, 1, 1)
        self.act3, self.fc = Pact(bits=8, alpha=2.1), WeightsOnlyLinear(8, 10)

    def forward(self, values: Tensor) -> Tensor:
        values = self.act1(values)
        values = self.act3(self.conv2(self.act2(self.conv1(values))) + values)
        pooled = functional.adaptive_avg_pool2d(functional.max_pool2d(values, 2), 1)
        logits: Tensor = self.fc(pooled.flatten(1))
        return logits


class Logarithmic(nn.Conv2d):
    """Levels that no family has."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.bits, self.alpha = 4, number(0.2)

    def forward(self, image: Tensor) -> Tensor:
        scaled = (self.weight / self.alpha).clamp(-1, 1)
        weight = 3.0 ** scaled.abs().clamp(min=1e-3).log().div(1.0986).round() * scaled.sign()
        return self._conv_forward(image, weight * self.alpha, self.bias)


class InputsOnly(nn.Conv2d):
    """Quantized inputs, float weights."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.bits, self.act_alpha = 4, number(1.3)

    def forward(self, image: Tensor) -> Tensor:
        return self._conv_forward(rounded(image, self.act_alpha, 15), self.weight, self.bias)


def conv(kind: type[nn.Module], **options: Any) -> nn.Module:
    """Return a convolution of a kind behind a ReLU."""
    return nn.Sequential(nn.ReLU(), kind(CHANNELS, CHANNELS, 3, **options))


def linear(kind: type[nn.Module]) -> nn.Module:
    """Return a linear layer of a kind behind a ReLU and a mean."""
    pool = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(pool, kind(CHANNELS, 10))


CONVERTED: dict[str, nn.Module] = {
    "quantized Linear": linear(ApotLinear),
    "weights alone": nn.Sequential(
        conv(WeightsOnly), nn.AdaptiveAvgPool2d(1), nn.Flatten(), WeightsOnlyLinear(CHANNELS, 10)
    ),
    "a grid without zero": conv(WeightsOnly, bits=2, grid=torch.tensor([0.25, 1.0])),
    "learned step sizes (LSQ)": nn.Sequential(conv(Steps), conv(StepsInParts)),
    "signed and narrow steps": nn.Sequential(
        Steps(CHANNELS, CHANNELS, 3, nbit=torch.tensor(3.0), signed=True), conv(Steps, narrow=True)
    ),
    "thresholds and steps of weights by channel": nn.Sequential(
        conv(Channelwise), linear(ChannelSteps)
    ),
    "widths of their own": linear(StepsLinear),
    "level sets of their own": conv(Mixed),
    "quantizers of activations in modules": nn.Sequential(
        ApotInput(), WeightsOnly(CHANNELS, CHANNELS, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), StepQuantizer(0, 15, 0.05), WeightsOnlyLinear(CHANNELS, 10),
    ),
    "quantizers shared by layers": Shared(),
    "quantizers before shortcuts and averages": Residual(),
}  # fmt: skip
"""Layers between quantized layers of a small network."""

REFUSED: dict[str, tuple[nn.Module, str]] = {
    "levels of no known set": (conv(Logarithmic), "closest of"),
    "thresholds of inputs by channel": (conv(InputChannels), "differ by channel"),
    "float weights of quantized inputs": (conv(InputsOnly), "thresholds of weights"),
}
