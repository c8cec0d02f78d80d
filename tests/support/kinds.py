"""What forward passes are written with: the table behind docs/supported.md and its tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import stochastic_depth

from tests.support import quantizer_forms
from tests.support.training_codes import FirstConv, QuantConvV2

CHANNELS, HEIGHT, WIDTH = 8, 6, 6
Step = Callable[[Tensor], Any]
SINGLE: Any = [1, 1]


def _shortcut(x: Tensor) -> Tensor:
    return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0)


def _shuffle(x: Tensor) -> Tensor:
    batch, channels, height, width = x.size()
    grouped = x.view(batch, 2, channels // 2, height, width)
    return torch.transpose(grouped, 1, 2).contiguous().view(batch, -1, height, width)


def _asking(x: Tensor) -> Tensor:
    assert x.shape[1] == CHANNELS
    if x.dim() == 4 and len(x.shape) == 4 and x.size(2) > 2:
        return x[:, : x.shape[1] // 2]
    return -x


class _Excite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Sequential(
            nn.Linear(CHANNELS, 4), nn.ReLU(), nn.Linear(4, CHANNELS), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, _, _ = x.size()
        weights = self.gate(self.pool(x).view(batch, channels)).view(batch, channels, 1, 1)
        return x * weights.expand_as(x)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(CHANNELS, 2, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        tokens = x.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens)[0]


class _Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        shared: Tensor = self.layer(torch.relu(self.layer(x)))
        return shared


def _pools(**options: Any) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(3, 2, **options), nn.MaxPool2d(2, 2, ceil_mode=True))


CONVERTED: dict[str, dict[str, Step]] = {
    "Activations": {
        "ReLU, ReLU6, Hardtanh": nn.Sequential(nn.ReLU(), nn.ReLU6(), nn.Hardtanh(0.1, 0.9)),
        "LeakyReLU": nn.LeakyReLU(0.2),
        "PReLU": nn.PReLU(CHANNELS),
        "ELU": nn.ELU(1.3),
        "Sigmoid": nn.Sigmoid(),
        "Tanh": lambda x: torch.tanh(x) + x.tanh(),
        "SiLU": nn.SiLU(inplace=True),
        "Hardswish": nn.Hardswish(),
        "Hardsigmoid": nn.Hardsigmoid(),
        "GELU": lambda x: functional.gelu(x) + functional.gelu(x, approximate="tanh"),
        "Mish, Softplus": lambda x: functional.mish(x) + functional.softplus(x),
        "Softmax": lambda x: functional.softmax(x, dim=1) + torch.softmax(x, -1),
        "CELU, SELU, RReLU": nn.Sequential(nn.CELU(0.7), nn.SELU(), nn.RReLU()),
        "Softsign, Softshrink, Tanhshrink": nn.Sequential(
            nn.Softsign(), nn.Softshrink(0.1), nn.Tanhshrink()
        ),
        "LogSigmoid, GLU": lambda x: functional.logsigmoid(functional.glu(x, 1)),
        "LogSoftmax, Softmin": lambda x: functional.log_softmax(x, 1) + functional.softmin(x, 1),
        "clamp, clamp_min": lambda x: x.clamp(min=0.1) + x.clamp_min(0) + x.clamp(-1, 1),
    },
    "Arithmetic": {
        "x + y, x - y": lambda x: x + torch.relu(x) - x.clamp(-1, 1),
        "numbers": lambda x: 1.0 - (x * 0.5 + 1.0) / 3,
        "torch.add(alpha)": lambda x: torch.add(x, torch.relu(x), alpha=0.3),
        "sum of a list": lambda x: sum([x, torch.relu(x), x * 2]),
        "products of branches": lambda x: x * torch.sigmoid(x.mean(1, keepdim=True)),
        "squeeze and excite": _Excite(),
        "powers, roots, quotients": lambda x: (x**2 + 1).sqrt() / (1 + torch.exp(-x)) + x**3,
        "maximum, minimum": lambda x: torch.maximum(x, -x) + torch.min(x.exp(), x * x + 1).rsqrt(),
    },
    "Means and maxima": {
        "mean over axes": lambda x: x.mean([2, 3]) + x.mean(dim=(-1, -2)),
        "mean after mean": lambda x: x.mean(3).mean(2) + x.mean(2).mean(2),
        "mean of channels": lambda x: x.mean(1, keepdim=True),
        "sum, amax, max": lambda x: x.sum(1).unsqueeze(1) * x.amax([2, 3])[:, :, None, None]
        + x.max(3)[0][..., None],
        "amin, min, var, std": lambda x: x.amin(1) + x.min(1)[0] + x.var(1) + torch.std(x, 1),
        "global pools": lambda x: functional.adaptive_max_pool2d(x, 1).flatten(1)
        + functional.adaptive_avg_pool2d(x, SINGLE).squeeze(3).squeeze(2),
        "adaptive pools": nn.Sequential(nn.AdaptiveAvgPool2d((4, 5)), nn.AdaptiveMaxPool2d((2, 5))),
        "adaptive pools of uneven windows": nn.AdaptiveMaxPool2d((4, 5)),
        "ceil_mode": _pools(ceil_mode=True),
        "padded averages": _pools(padding=1),
        "padding not counted": _pools(padding=1, ceil_mode=True, count_include_pad=False),
    },
    "Shapes": {
        "views": lambda x: x.view(x.size()).reshape(x.size(0), CHANNELS, -1).flatten(1),
        "squeeze, unsqueeze": lambda x: x[:, :, :1].squeeze(2).unsqueeze(-1),
        "permute, transpose": lambda x: x.permute(0, 2, 3, 1).transpose(1, 3),
        "questions about shapes": _asking,
        "slices": lambda x: x[:, 1:-1, ::2, 3] + x[..., 0, :3].mean(1, keepdim=True),
        "parameter-free shortcut": _shortcut,
        "chunk, split, unbind": lambda x: torch.cat(
            [*x.chunk(2, 1), *torch.split(x, [3, 5], 1), torch.stack(x.unbind(1), 1)], 1
        ),
        "concatenation of any axis": lambda x: torch.cat([torch.cat([x, -x], dim=2)] * 2, dim=-1),
        "channel shuffle": _shuffle,
        "padding": nn.Sequential(nn.ZeroPad2d((1, 2, 0, 3)), nn.ReplicationPad2d(1)),
        "reflected and circular borders": nn.Sequential(
            nn.ReflectionPad2d((2, 1, 0, 3)), nn.CircularPad2d((1, 0, 2, 3))
        ),
        "roll, repeat": lambda x: torch.roll(x, (1, -2), (2, 3)).repeat(1, 2, 1, 1),
        "flatten, unflatten": nn.Sequential(nn.Flatten(2), nn.Unflatten(1, (4, 2))),
        "PixelShuffle": nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(3)),
        "stochastic depth": lambda x: stochastic_depth(x, 0.5, "row", training=False),
        "dropout": lambda x: functional.dropout(x, training=False),
    },
    "Interpolation": {
        "nearest": lambda x: functional.interpolate(x, scale_factor=2),
        "nearest, any size": lambda x: functional.interpolate(x, size=(9, 7)),
        "bilinear": nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        "bilinear to a size": lambda x: functional.interpolate(
            x, x[:, :, :5].shape[2:], mode="bilinear", align_corners=False
        ),
        "bicubic": lambda x: functional.interpolate(x, scale_factor=1.5, mode="bicubic"),
    },
    "Normalisation": {
        "BatchNorm2d, SyncBatchNorm": nn.Sequential(
            nn.BatchNorm2d(CHANNELS, affine=False), nn.SyncBatchNorm(CHANNELS)
        ),
        "GroupNorm": nn.GroupNorm(4, CHANNELS),
        "InstanceNorm2d": nn.InstanceNorm2d(CHANNELS, affine=True),
        "LayerNorm": nn.LayerNorm([WIDTH]),
        "RMSNorm": lambda x: functional.rms_norm(x, [HEIGHT, WIDTH]),
    },
    "Layers": {
        "shared layers": _Shared(),
        "dilation, groups": nn.Conv2d(CHANNELS, CHANNELS, 3, dilation=2, groups=4),
        "padding='same', 'valid'": nn.Sequential(
            nn.Conv2d(CHANNELS, 4, 3, padding="same"), nn.Conv2d(4, 4, 3, padding="valid")
        ),
        "padding='same', uneven": nn.Sequential(
            nn.Conv2d(CHANNELS, 4, (4, 2), padding="same", dilation=(1, 3)),
            QuantConvV2(4, 4, 2, padding="same", bit=3),
        ),
        "padding_mode": nn.Sequential(
            nn.Conv2d(CHANNELS, 4, 3, padding=2, padding_mode="reflect"),
            QuantConvV2(4, 4, 3, padding=1, padding_mode="replicate", bit=3),
            nn.Conv2d(4, 4, 3, padding=(2, 1), padding_mode="circular"),
        ),
        "ConvTranspose2d": nn.Sequential(
            nn.ConvTranspose2d(CHANNELS, 6, 2, stride=2),
            nn.ConvTranspose2d(6, 4, (3, 4), (2, 3), 1, (1, 2), groups=2, dilation=(2, 1)),
            nn.ConvTranspose2d(4, 4, 3, 1, padding=3, bias=False),
        ),
    },
    "Quantizers": dict(quantizer_forms.CONVERTED),
    "Results": {
        "several": lambda x: (x.mean((2, 3)), x),
        "in a dict": lambda x: {"out": x, "aux": torch.relu(x)},
    },
}  # fmt: skip
"""By group and kind: the step between the quantized layers of a small network."""

REFUSED: dict[str, tuple[Step, str]] = {
    **quantizer_forms.REFUSED,
    "branches that depend on values": (lambda x: x if x.sum() > 0 else -x, "data-dependent"),
    "axes of the batch": (lambda x: x.mean(0, keepdim=True), "batch"),
    "sorting": (lambda x: torch.sort(x, 1)[0], "does not know"),
    "MultiheadAttention": (_Attention(), "MultiheadAttention"),
    "scaled_dot_product_attention": (
        lambda x: functional.scaled_dot_product_attention(x, x, x),
        "scaled_dot_product_attention",
    ),
    "linear layers along one of several axes": (nn.Linear(WIDTH, 5), "1 x 1"),
    "matrix products of two values": (lambda x: x @ x.transpose(2, 3), "matmul"),
    "dilated maxima": (nn.MaxPool2d(2, dilation=2), "dilation"),
    "functions with jumps": (nn.Hardshrink(0.1), "hardshrink"),
    "mixing images": (lambda x: x.view(-1, CHANNELS * HEIGHT * WIDTH * 2), "does not know"),
}
"""By kind: a step, and what the error says."""


class Network(nn.Module):
    """A quantized network around a step."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.first = FirstConv(3, CHANNELS, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.conv = QuantConvV2(CHANNELS, CHANNELS, 3, padding=1, bit=4, bias=False)
        self.step = step

    def forward(self, image: Tensor) -> Any:
        """Return what the step makes of features."""
        return self.step(self.conv(torch.relu(self.norm(self.first(image)))))


def network_around(step: Step) -> nn.Module:
    """Return the network, with weights and statistics that are the same each time."""
    torch.manual_seed(7)
    return with_statistics(Network(step))


def with_statistics(network: nn.Module) -> nn.Module:
    """Return a network whose batch-norms have seen images, in evaluation mode."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()
