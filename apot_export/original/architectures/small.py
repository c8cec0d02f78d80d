"""The small networks of the ALQ code: LeNet5 on MNIST and a VGG on CIFAR-10."""

from __future__ import annotations

import torch
from torch import nn

from apot_export.original.architectures._protocol import Architecture, Shapes

_WIDTHS = (128, 256, 512)


class SmallVgg(nn.Module):
    """Six 3x3 convolutions, a max-pool after every second one, and three linear layers."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        in_channels = 3
        for width in _WIDTHS:
            layers += [nn.Conv2d(in_channels, width, 3, padding=1), *_norm(nn.BatchNorm2d(width))]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.MaxPool2d(2, 2)]
            layers += _norm(nn.BatchNorm2d(width))
            in_channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(in_channels * 4 * 4, 1024),
            *_norm(nn.BatchNorm1d(1024)),
            nn.Linear(1024, 1024),
            *_norm(nn.BatchNorm1d(1024)),
            nn.Linear(1024, classes),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map float32 [N, 3, 32, 32] to logits [N, classes]."""
        logits: torch.Tensor = self.classifier(torch.flatten(self.features(image), 1))
        return logits


def _norm(layer: nn.Module) -> list[nn.Module]:
    return [layer, nn.ReLU()]


def recognise_vgg(shapes: Shapes) -> Architecture | None:
    """Recognise the small VGG, or return None."""
    last = shapes.get("classifier.6.weight", ())
    if shapes.get("features.0.weight") != (128, 3, 3, 3) or len(last) != 2:  # noqa: PLR2004 - matrix
        return None
    return Architecture(
        name="VGG-small",
        input_shape=(3, 32, 32),
        first="features.0",
        last="classifier.6",
        build=lambda: SmallVgg(last[0]),
    )


class LeNet5(nn.Module):
    """Convolution, max-pool, ReLU, twice; then linear, ReLU, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 20, 5),
            nn.MaxPool2d(2, 2),
            nn.ReLU(),
            nn.Conv2d(20, 50, 5),
            nn.MaxPool2d(2, 2),
            nn.ReLU(),
        )
        self.classifier = nn.Sequential(nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map float32 [N, 1, 28, 28] to logits [N, 10]."""
        logits: torch.Tensor = self.classifier(torch.flatten(self.features(image), 1))
        return logits


def recognise_lenet(shapes: Shapes) -> Architecture | None:
    """Recognise LeNet5, or return None."""
    if shapes.get("features.0.weight") != (20, 1, 5, 5):
        return None
    return Architecture(
        name="LeNet5",
        input_shape=(1, 28, 28),
        first="features.0",
        last="classifier.2",
        build=LeNet5,
    )
