"""Which known network's keys come closest to those of an unknown one: for error messages."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from apot_export.original.architectures._protocol import Shapes
from apot_export.original.architectures.lenet import LeNet5
from apot_export.original.architectures.mobilenet_v2 import MobileNetV2
from apot_export.original.architectures.resnet import Design, ResNet
from apot_export.original.architectures.vgg import SmallVgg

_CLASSES = 10
_THRESHOLD_SUFFIXES = ("alpha", "num_batches_tracked")
"""Keys that say nothing of an architecture."""


def _resnet(blocks: tuple[int, ...], *, bottleneck: bool = False) -> Callable[[], nn.Module]:
    design = Design(
        blocks=blocks,
        bottleneck=bottleneck,
        width=16,
        image=(3, 32, 32) if len(blocks) == 3 else (3, 224, 224),  # noqa: PLR2004 - small images
        classes=_CLASSES,
    )
    return lambda: ResNet(design)


_KNOWN: dict[str, Callable[[], nn.Module]] = {
    "ResNet-20 (CIFAR)": _resnet((3, 3, 3)),
    "ResNet-18 (ImageNet)": _resnet((2, 2, 2, 2)),
    "ResNet-50 (ImageNet)": _resnet((3, 4, 6, 3), bottleneck=True),
    "MobileNetV2": lambda: MobileNetV2(_CLASSES),
    "VGG-small": lambda: SmallVgg(_CLASSES),
    "LeNet5": LeNet5,
}


def closest(shapes: Shapes) -> tuple[str, list[str], list[str]]:
    """Return the known network that shares most keys, the keys of it that are missing, and others.

    Shapes do not count: a network of another width is still close.
    """
    given = [key for key in shapes if not key.endswith(_THRESHOLD_SUFFIXES)]
    best = ("", list[str](), given)
    most = -1.0
    for name, build in _KNOWN.items():
        with torch.device("meta"):
            known = [key for key in build().state_dict() if not key.endswith(_THRESHOLD_SUFFIXES)]
        common = set(known) & set(given)
        likeness = len(common) / len({*known, *given})
        if likeness > most:
            most = likeness
            missing = [key for key in known if key not in common]
            best = (name, missing, [key for key in given if key not in common])
    return best
