"""What recognising an architecture gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from apot_export.original.quantization import ARCHITECTURE

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of a state dict's tensors by key."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A recognised network that can be built of plain PyTorch layers."""

    name: str
    input_shape: tuple[int, int, int]
    """One image: (channels, height, width)."""
    input_shape_from: str = ARCHITECTURE
    """What states it: the architecture, whose published networks have it, or an option."""
    first: str
    """Name of the first convolution, whose weights have 8 bits in the families that quantize."""
    last: str
    """Name of the last linear layer, likewise."""
    build: Callable[[], nn.Module]
    tree: str = ""
    """Tree of the published training codes that has it: "CIFAR", "MNIST" or "ImageNet"."""


def convolution(
    in_channels: int, channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """Return a convolution without bias that keeps the image's size but for its stride."""
    padding = kernel // 2
    return nn.Conv2d(in_channels, channels, kernel, stride, padding, groups=groups, bias=False)
