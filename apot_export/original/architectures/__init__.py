"""The published network architectures, recognised from a state dict's keys and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from apot_export.errors import RecognitionError
from apot_export.original.architectures import mobilenet_v2, resnet, small
from apot_export.original.architectures._protocol import Architecture, Shapes
from apot_export.original.loading import load_state, some_keys
from apot_export.original.quantization import OPTION, Quantization
from apot_export.original.quantized_layers import QuantConv2d, dress

_RECOGNISERS: tuple[Callable[[Shapes], Architecture | None], ...] = (
    resnet.recognise,
    mobilenet_v2.recognise,
    small.recognise_vgg,
    small.recognise_lenet,
)
_small_resnet = partial(resnet.ResNet, width=16, image=(3, 32, 32), classes=10)
_large_resnet = partial(resnet.ResNet, width=64, image=(3, 224, 224), classes=10)
_KNOWN: dict[str, Callable[[], nn.Module]] = {
    "ResNet-20 (CIFAR)": partial(_small_resnet, blocks=(3, 3, 3)),
    "ResNet-18 (ImageNet)": partial(_large_resnet, blocks=(2, 2, 2, 2)),
    "ResNet-50 (ImageNet)": partial(_large_resnet, blocks=(3, 4, 6, 3), bottleneck=True),
    "MobileNetV2": partial(mobilenet_v2.MobileNetV2, 10),
    "VGG-small": partial(small.SmallVgg, 10),
    "LeNet5": small.LeNet5,
}
"""Networks that an unknown one may come close to, for error messages."""
_SILENT_SUFFIXES = ("alpha", "num_batches_tracked")
"""Keys that say nothing of an architecture."""


def recognise(shapes: Shapes, image: tuple[int, int, int] | None = None) -> Architecture:
    """Return the architecture that a state dict's keys and shapes describe.

    Args:
        shapes: Shapes of the tensors by key.
        image: One image, (channels, height, width); None for that of the published networks.

    Raises:
        RecognitionError: None of the known ones, or it does not take such images.
    """
    for recogniser in _RECOGNISERS:
        found = recogniser(shapes)
        if found is not None:
            if image is None or image == found.input_shape:
                return found
            return _resized(found, image)
    name, missing, others = _closest(shapes)
    raise RecognitionError(
        f"The checkpoint's keys describe no known architecture; {name} comes closest.",
        expected="a ResNet (conv1, layer1, ..., fc), MobileNetV2, VGG or LeNet5 of the field",
        got=f"for {name} {some_keys(missing, 'missing')}; {some_keys(others, 'unknown')}",
        fix="check that the file holds the state dict of one of these networks, "
        "or name its constructor with --model PACKAGE.MODULE:FACTORY",
    )


def _resized(architecture: Architecture, image: tuple[int, int, int]) -> Architecture:
    """Return an architecture for images of another size."""
    make = architecture.build
    same_channels = image[0] == architecture.input_shape[0]
    if same_channels and isinstance(make, partial) and "image" in make.keywords:
        make = partial(make, image=image)
    try:
        with torch.device("meta"):
            make().eval()(torch.empty(1, *image))
    except (RuntimeError, ValueError) as error:
        raise RecognitionError(
            "The network does not take images of this size.",
            where=architecture.name,
            expected=f"images such as {list(architecture.input_shape)}",
            got=f"{list(image)} ({str(error).splitlines()[0]})",
            fix="leave out --input-shape",
        ) from error
    return replace(architecture, input_shape=image, input_shape_from=OPTION, build=make)


def _closest(shapes: Shapes) -> tuple[str, list[str], list[str]]:
    """Return the known network that shares most keys, the keys of it that are missing, and others.

    Shapes do not count: a network of another width is still close.
    """
    with torch.device("meta"):
        known = {name: _telling(network().state_dict()) for name, network in _KNOWN.items()}
    given = _telling(shapes)

    def likeness(name: str) -> float:
        keys = set(known[name])
        return len(keys.intersection(given)) / len(keys.union(given))

    name = max(known, key=likeness)
    missing = [key for key in known[name] if key not in given]
    return name, missing, [key for key in given if key not in known[name]]


def _telling(keys: Iterable[str]) -> list[str]:
    return [key for key in keys if not key.endswith(_SILENT_SUFFIXES)]


def build(
    architecture: Architecture,
    state: Mapping[str, torch.Tensor],
    quantized: Mapping[str, Quantization],
    eight_bit: Iterable[str],
    family: str,
) -> nn.Module:
    """Build an architecture around a state dict's tensors, in evaluation mode.

    Args:
        architecture: What `recognise` returned.
        state: Tensors by canonical key, on the CPU.
        quantized: Quantization of each convolution that has thresholds.
        eight_bit: Names of the layers with 8-bit weights.
        family: Name of the checkpoint family, for messages.

    Raises:
        RecognitionError: Keys are missing, unknown, or of another shape than the architecture's.
    """
    with torch.device("meta"):
        module = architecture.build()
        dress(module, quantized, eight_bit)
    load_state(
        module,
        state,
        f"{architecture.name} of the family {family}, which comes closest",
        fix="check that the file holds an unmodified network of this architecture, "
        "or name its constructor with --model PACKAGE.MODULE:FACTORY",
    )
    for submodule in module.modules():
        if isinstance(submodule, QuantConv2d):
            submodule.reset_level_sets()
    return module.eval().requires_grad_(requires_grad=False)


__all__ = ["Architecture", "build", "recognise"]
