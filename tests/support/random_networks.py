"""Checkpoints of every architecture: random weights, thresholds and calibrated batch-norm."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from apot_export.original.architectures.mobilenet_v2 import MobileNetV2
from apot_export.original.architectures.resnet import ResNet
from apot_export.original.architectures.small import LeNet5, SmallVgg


def resnet(
    blocks: tuple[int, ...], image: tuple[int, int, int], width: int, *, bottleneck: bool = False
) -> Callable[[], nn.Module]:
    """Return the constructor of a ResNet with ten classes.

    Large ones of the tests are as narrow as small ones: the same layers, of a sixteenth of the
    weights. The published ResNet-18 has them all.
    """
    return partial(
        ResNet, blocks=blocks, bottleneck=bottleneck, width=width, image=image, classes=10
    )


CIFAR, MNIST, IMAGENET = (3, 32, 32), (1, 28, 28), (3, 224, 224)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "ResNet-20 (CIFAR)": (resnet((3, 3, 3), CIFAR, 16), CIFAR),
    "ResNet-32 (CIFAR)": (resnet((5, 5, 5), CIFAR, 16), CIFAR),
    "ResNet-44 (CIFAR)": (resnet((7, 7, 7), CIFAR, 16), CIFAR),
    "ResNet-56 (CIFAR)": (resnet((9, 9, 9), CIFAR, 16), CIFAR),
    "ResNet-110 (CIFAR)": (resnet((18, 18, 18), CIFAR, 16), CIFAR),
    "ResNet-164 (CIFAR)": (resnet((18, 18, 18), CIFAR, 16, bottleneck=True), CIFAR),
    "ResNet-14 (MNIST)": (resnet((2, 1, 1, 2), MNIST, 16), MNIST),
    "ResNet-50 (MNIST)": (resnet((3, 4, 6, 3), MNIST, 16, bottleneck=True), MNIST),
    "ResNet-18 (ImageNet)": (resnet((2, 2, 2, 2), IMAGENET, 16), IMAGENET),
    "ResNet-34 (ImageNet)": (resnet((3, 4, 6, 3), IMAGENET, 16), IMAGENET),
    "ResNet-50 (ImageNet)": (resnet((3, 4, 6, 3), IMAGENET, 16, bottleneck=True), IMAGENET),
    "ResNet-101 (ImageNet)": (resnet((3, 4, 23, 3), IMAGENET, 16, bottleneck=True), IMAGENET),
    "ResNet-152 (ImageNet)": (resnet((3, 8, 36, 3), IMAGENET, 16, bottleneck=True), IMAGENET),
    "MobileNetV2": (lambda: MobileNetV2(10), IMAGENET),
    "VGG-small": (lambda: SmallVgg(10), CIFAR),
    "LeNet5": (LeNet5, MNIST),
}
_FIRST_AND_LAST = ("conv1", "features.0", "features.0.0")


def write_checkpoint(
    path: Path, name: str, family: str, *, images: int = 2, seed: int = 0, size: int | None = None
) -> torch.Tensor:
    """Write a checkpoint of a family and return images for it, float32 [images, C, H, W].

    Images are squares of `size`; None for the size that the network is made for.

    `family` is "apot-v1", "apot-v2", "first-release" (a bare state dict), "nonzero" or
    "full-precision".
    """
    torch.manual_seed(seed)
    build, shape = NETWORKS[name]
    if size is not None:
        shape = (shape[0], size, size)
    module = build()
    batch = torch.randn(max(images, 4), *shape)
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.momentum = None
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0.0, 0.3)
    module.train()
    with torch.no_grad():
        module(batch)
    state = dict(module.state_dict())
    quantized = {
        key: layer
        for key, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d) and key not in _FIRST_AND_LAST
    }
    if family != "full-precision":
        for key in quantized:
            weight_alpha = 1.5 + torch.rand(())
            prefix = "weight_alpha" if family == "apot-v2" else "weight_quant.wgt_alpha"
            state[f"{key}.{prefix}"] = weight_alpha
            state[f"{key}.act_alpha"] = 1.0 + torch.rand(())
            if family == "nonzero":
                state[f"{key}.factorW"] = torch.tensor(0.0)
                state[f"{key}.factorA"] = torch.tensor(0.0)
    state = {f"module.{key}": value for key, value in state.items()}
    torch.save(state if family == "first-release" else {"epoch": 1, "state_dict": state}, path)
    return batch[:images]
