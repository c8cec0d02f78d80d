"""Networks of the size that people train, of the authors' quantized layers.

Run as a module it prints how long each takes to convert, at 224 x 224.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

import apot_export
from tests.support.training_codes import FirstConv, LastFC, QuantConvV2, with_statistics

IMAGE = (3, 224, 224)


def quantized(network: nn.Module, *, floats: tuple[str, ...] = ()) -> nn.Module:
    """Return a network with quantized layers in place of its convolutions, in evaluation mode.

    Args:
        network: One of PyTorch's own layers, changed in place.
        floats: Layers that stay as they are.
    """
    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for number, (name, layer) in enumerate(layers):
        made: nn.Module = layer
        if isinstance(layer, nn.Linear) and number == len(layers) - 1:
            made = LastFC(layer.in_features, layer.out_features)
        elif isinstance(layer, nn.Conv2d) and name not in floats:
            sizes: Any = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
            options: dict[str, Any] = {"padding": layer.padding, "dilation": layer.dilation}
            options |= {"groups": layer.groups, "bias": layer.bias is not None}
            made = (QuantConvV2 if number else FirstConv)(*sizes, **options)
        network.set_submodule(name, made)
    return with_statistics(network)


class Averaged(nn.Module):
    """MobileNetV2 that averages one axis after the other."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        network = models.mobilenet_v2(width_mult=width)
        self.features, self.classifier = network.features, network.classifier

    def forward(self, image: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.classifier(self.features(image).mean(3).mean(2))
        return logits


class Excitation(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 16)
        self.excite = nn.Linear(channels // 16, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return features."""
        gates = functional.relu(self.squeeze(x.mean((2, 3))))
        return x * torch.sigmoid(self.excite(gates))[:, :, None, None]


def excited_resnet() -> nn.Module:
    """Return a ResNet-18 with squeeze and excite behind the second batch-norm of every block."""
    network = models.resnet18()
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        for block in stage:
            block.bn2 = nn.Sequential(block.bn2, Excitation(block.bn2.num_features))
    return network


def _twice(channels: int, outputs: int, middle: int | None = None) -> nn.Module:
    middle = middle or outputs
    return nn.Sequential(
        nn.Conv2d(channels, middle, 3, padding=1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Four times down, and up again bilinearly."""

    def __init__(self, width: int = 64, classes: int = 2) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.inc = _twice(3, width)
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), _twice(a, b)) for a, b in itertools.pairwise(widths)
        )
        outputs = [4 * width, 2 * width, width, width]
        self.up = nn.ModuleList(
            _twice(2 * w, o, w) for w, o in zip(widths[-2::-1], outputs, strict=True)
        )
        self.enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.outc = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores [N, classes, H, W]."""
        found = [self.inc(image)]
        for down in self.down:
            found.append(down(found[-1]))
        x = found.pop()
        for up in self.up:
            skip, x = found.pop(), self.enlarge(x)
            rows, columns = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
            x = functional.pad(
                x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2]
            )
            x = up(torch.cat([skip, x], dim=1))
        scores: Tensor = self.outc(x)
        return scores


def fully_convolutional() -> nn.Module:
    """Return torchvision's FCN on a ResNet-50, whose results are in a dictionary."""
    network: nn.Module = models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, aux_loss=False
    )
    return network


def deeplab(width: float = 1.0) -> nn.Module:
    """Return torchvision's DeepLabV3 on MobileNetV3, with atrous pyramid pooling."""
    backbone = models.mobilenet_v3_large(dilated=True, width_mult=width).features
    head = DeepLabHead(backbone[-1].out_channels, 21)
    last = {str(len(backbone) - 1): "out"}
    network: nn.Module = models.segmentation.DeepLabV3(
        IntermediateLayerGetter(backbone, last), head
    )
    return network


class TwoHeads(nn.Module):
    """A ResNet-18 that returns classes, and boxes of every place."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*list(models.resnet18().children())[:-2])
        self.boxes = nn.Conv2d(512, 4, 1)
        self.classes = nn.Linear(512, 1000)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and boxes."""
        x = self.body(image)
        return self.classes(x.mean([2, 3])), self.boxes(x).flatten(2).transpose(1, 2)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "MobileNetV2": lambda: quantized(models.mobilenet_v2()),
    "MobileNetV2, mean after mean": lambda: quantized(Averaged()),
    "SE-ResNet-18": lambda: quantized(excited_resnet()),
    "U-Net": lambda: quantized(UNet(), floats=("outc",)),
    "FCN": lambda: quantized(fully_convolutional(), floats=("classifier.4",)),
    "DeepLabV3": lambda: quantized(deeplab(), floats=("classifier.4",)),
    "two heads": lambda: quantized(TwoHeads()),
}
"""By name; each takes an `IMAGE`, and smaller ones."""


def measure() -> None:
    """Convert each network once."""
    torch.set_num_threads(1)
    for name, make in NETWORKS.items():
        torch.manual_seed(7)
        network = make()
        with tempfile.TemporaryDirectory() as folder:
            wall, processor = time.perf_counter(), time.process_time()
            apot_export.convert(network, f"{folder}/export", input_shape=IMAGE)
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
        sys.stdout.write(f"{name}: {wall:.1f} s, of the processor {processor:.1f} s\n")


if __name__ == "__main__":
    measure()
