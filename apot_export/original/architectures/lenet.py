"""LeNet5 of the ALQ code: two 5x5 convolutions and two linear layers on MNIST."""

from __future__ import annotations

import torch
from torch import nn

from apot_export.original.architectures._protocol import Architecture, Shapes


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


def recognise(shapes: Shapes) -> Architecture | None:
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
