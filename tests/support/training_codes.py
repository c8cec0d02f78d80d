"""A user's network in the style of the training codes: what `--model` imports in the tests.

It stands by itself, so that a test can put a copy of it where nothing else of the tests is.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn
from torch.nn import functional

ADDENDS = {
    1: [[0.0, 1.0]],
    2: [[0.0, 0.5, 0.25, 0.125]],
    3: [[0.0, 0.5, 0.25, 0.0625], [0.0, 0.125]],
    4: [[0.0, 0.5, 0.125, 0.03125], [0.0, 0.25, 0.0625, 0.015625]],
}


def levels(bits: int, *, divide: bool = True) -> torch.Tensor:
    sums = torch.tensor(sorted({sum(choice) for choice in itertools.product(*ADDENDS[bits])}))
    return sums / sums.max() if divide else sums


def nearest(values: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return grid[(values.unsqueeze(-1) - grid).abs().argmin(-1)]


def normalised(weight: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    return ((weight - weight.mean()) / weight.std() / alpha).clamp(-1, 1)


class QuantConvV2(nn.Conv2d):
    """Both thresholds beside the weight."""

    def __init__(self, *args: Any, bit: int = 4, power: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.layer_type = "QuantConv2d"
        self.bit = bit
        self.power = power
        if power:
            if bit > 2:
                self.proj_set_weight = levels(bit - 1)
            self.proj_set_act = levels(bit)
        self.act_alpha = nn.Parameter(torch.tensor(2.37))
        self.weight_alpha = nn.Parameter(torch.tensor(2.61))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        weight = normalised(self.weight, self.weight_alpha)
        values = (image / self.act_alpha).clamp(0, 1)
        weight_steps, steps = 2 ** (self.bit - 1) - 1, 2**self.bit - 1
        if self.power and self.bit > 2:
            weight = nearest(weight.abs(), self.proj_set_weight) * weight.sign()
        else:
            weight = (weight * weight_steps).round() / weight_steps
        if self.power:
            values = nearest(values, self.proj_set_act)
        else:
            values = (values * steps).round() / steps
        return self._conv_forward(values * self.act_alpha, weight * self.weight_alpha, self.bias)


class WeightQuant(nn.Module):
    def __init__(self, grid: torch.Tensor) -> None:
        super().__init__()
        self.grids = grid
        self.wgt_alpha = nn.Parameter(torch.tensor(2.61))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        weight = normalised(weight, self.wgt_alpha)
        return nearest(weight.abs(), self.grids) * weight.sign() * self.wgt_alpha


class QuantConvV1(nn.Conv2d):
    """The weights' threshold in a submodule."""

    def __init__(
        self, *args: Any, bit: int = 4, grid: torch.Tensor | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.layer_type = "QuantConv2d"
        self.bit = bit
        self.weight_quant = WeightQuant(levels(bit - 1) if grid is None else grid)
        self.act_grid = levels(bit)
        self.act_alpha = nn.Parameter(torch.tensor(2.37))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        values = nearest((image / self.act_alpha).clamp(max=1), self.act_grid) * self.act_alpha
        return self._conv_forward(values, self.weight_quant(self.weight), self.bias)


class QuantConvNonZero(QuantConvV1):
    """As the class above, with gradient factors and levels that are not divided."""

    def __init__(self, *args: Any, bit: int = 4, z: int = 2, **kwargs: Any) -> None:
        grid = torch.tensor([2.0**-z, 1.0]) if bit == 2 else levels(bit - 1, divide=False)
        super().__init__(*args, bit=bit, grid=grid, **kwargs)
        self.register_buffer("factorW", torch.tensor(1.0))
        self.register_buffer("factorA", torch.tensor(1.0))


class QuantConvUniform(QuantConvV1):
    """Uniform levels, and activations that are clipped from above only."""

    def __init__(self, *args: Any, bit: int = 4, **kwargs: Any) -> None:
        super().__init__(*args, bit=bit, **kwargs)
        self.power = False
        del self.act_grid, self.weight_quant.grids

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        weight = normalised(self.weight, self.weight_quant.wgt_alpha)
        weight_steps, steps = 2 ** (self.bit - 1) - 1, 2**self.bit - 1
        weight = (weight.abs() * weight_steps).round() / weight_steps * weight.sign()
        values = ((image / self.act_alpha).clamp(max=1) * steps).round() / steps
        weight = weight * self.weight_quant.wgt_alpha
        return self._conv_forward(values * self.act_alpha, weight, self.bias)


class QuantConvSigned(QuantConvV2):
    """Uniform levels, and activations that are clipped at both thresholds."""

    def __init__(self, *args: Any, bit: int = 4, **kwargs: Any) -> None:
        super().__init__(*args, bit=bit, power=False, **kwargs)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        steps = 2 ** (self.bit - 1) - 1
        weight = normalised(self.weight, self.weight_alpha)
        weight = (weight * steps).round() / steps * self.weight_alpha
        values = ((image / self.act_alpha).clamp(-1, 1) * steps).round() / steps
        return self._conv_forward(values * self.act_alpha, weight, self.bias)


def eight_bit(weight: torch.Tensor) -> torch.Tensor:
    largest = weight.max()
    return (weight / largest * 127).round() / 127 * largest


class FirstConv(nn.Conv2d):
    layer_type = "FConv2d"

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(image, eight_bit(self.weight), self.bias)


class LastFC(nn.Linear):
    layer_type = "LFC"

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return functional.linear(features, eight_bit(self.weight), self.bias)


KINDS: dict[str, type[nn.Conv2d]] = {
    "v1": QuantConvV1,
    "v2": QuantConvV2,
    "nonzero": QuantConvNonZero,
}


class FromImages(nn.Module):
    """The first layer is quantized on normalised images, and one layer has no ReLU before it.

    `kind` is "signed", whose third layer is of the usual code, or "uniform".
    """

    def __init__(self, kind: str = "signed", bit: int = 4, width: int = 6) -> None:
        super().__init__()
        conv = QuantConvSigned if kind == "signed" else QuantConvUniform
        self.first = conv(1, width, 3, padding=1, bias=False, bit=bit)
        self.bn1 = nn.BatchNorm2d(width)
        self.linear = conv(width, 2 * width, 3, stride=2, padding=1, bias=False, bit=bit)
        self.bn2 = nn.BatchNorm2d(2 * width)
        options: dict[str, Any] = {"padding": 1, "bit": bit}
        options |= {"power": False} if kind == "signed" else {}
        last = QuantConvV2 if kind == "signed" else QuantConvUniform
        self.last = last(2 * width, 2 * width, 3, **options)
        self.fc = LastFC(2 * width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.bn2(self.linear(self.bn1(self.first(image))))
        features = functional.relu(self.last(functional.relu(features)))
        logits: torch.Tensor = self.fc(functional.adaptive_avg_pool2d(features, 1).flatten(1))
        return logits


class SmallUNet(nn.Module):
    """Down, up again, and concatenated with what was on the way."""

    def __init__(
        self,
        kind: str = "v2",
        bit: int = 4,
        width: int = 6,
        classes: int = 10,
        dense: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        conv, options = KINDS[kind], {"padding": 1, "bit": bit, **options}
        self.inc = FirstConv(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.down = conv(width, 2 * width, 3, stride=2, bias=False, **options)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.relu = nn.ReLU(inplace=True)
        self.bottom = conv(2 * width, 2 * width, 3, bias=False, **options)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.fuse = conv(5 * width, width, 3, **options)
        self.unused = nn.Conv2d(width, 3, 1)
        self.dense = dense
        last = nn.Conv2d(width, classes, 1) if dense else LastFC(width * 16, classes)
        self.head = nn.Sequential(nn.Dropout(0.5), last)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skip = self.relu(self.bn1(self.inc(image)))
        down = functional.relu6(self.bn2(self.down(skip)))
        bottom = functional.relu(self.bottom(down), inplace=True)
        wide = functional.interpolate(bottom, size=skip.size()[2:])
        features = self.fuse(torch.cat([self.up(down), wide, skip], dim=1)).clamp(min=0, max=4)
        if self.dense:
            scores: torch.Tensor = self.head(features)
            return scores
        features = functional.max_pool2d(features, 2)
        logits: torch.Tensor = self.head(features.view(features.size(0), -1))
        return logits


def make(seed: int = 1, network: type[nn.Module] = SmallUNet, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return with_statistics(network(**options))


def make_from_images(seed: int = 1, **options: Any) -> nn.Module:
    return make(seed, FromImages, **options)


def with_statistics(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for statistic in (module.running_mean, module.running_var):
                assert statistic is not None
                statistic.uniform_(0.5, 1.5)
    return network.eval()


def not_a_network() -> int:
    return 3


def fails() -> nn.Module:
    raise RuntimeError("no data")
