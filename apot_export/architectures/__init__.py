"""The networks of the field, recognised from a state dict's keys and shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from apot_export.architectures import cifar_resnet, imagenet_resnet
from apot_export.errors import RecognitionError
from apot_export.torch_layers import LayerFactory, QuantConv2d

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A recognised network that can be built.

    `input_shape` is one image, (channels, height, width).
    """

    name: str
    input_shape: tuple[int, int, int]
    build: Callable[[LayerFactory], nn.Module]


_RECOGNISERS = (cifar_resnet.recognise, imagenet_resnet.recognise)
_OPTIONAL_SUFFIX = "num_batches_tracked"
"""Counters that old PyTorch versions did not write and evaluation does not read."""
_SHOWN_KEYS = 6


def recognise(shapes: Shapes) -> Architecture:
    """Return the architecture that a state dict's keys and shapes describe.

    Raises:
        RecognitionError: None of the known ones.
    """
    for recogniser in _RECOGNISERS:
        found = recogniser(shapes)
        if found is not None:
            name, input_shape, build = found
            return Architecture(name=name, input_shape=input_shape, build=build)
    raise RecognitionError(
        "The checkpoint's keys describe no known architecture.",
        expected="a CIFAR ResNet (conv1, layer1-3, fc) or an ImageNet ResNet (layer1-4)",
        got=", ".join(list(shapes)[:_SHOWN_KEYS]),
        fix="check that the file holds the state dict of one of these networks",
    )


def build(
    architecture: Architecture, factory: LayerFactory, state: Mapping[str, torch.Tensor]
) -> nn.Module:
    """Build an architecture around a state dict's tensors, in evaluation mode.

    Raises:
        RecognitionError: Keys are missing, unknown, or of another shape than the architecture's.
    """
    with torch.device("meta"):
        module = architecture.build(factory)
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    got = {key: tuple(value.shape) for key, value in state.items()}
    _require_equal_keys(architecture.name, expected, got)
    complete = dict(state)
    for key in expected:
        if key.endswith(_OPTIONAL_SUFFIX):
            complete.setdefault(key, torch.zeros((), dtype=torch.int64))
    module.load_state_dict(complete, assign=True)
    for submodule in module.modules():
        # Level sets are constants, not state: made again where `meta` left no values.
        if isinstance(submodule, QuantConv2d):
            submodule.reset_level_sets()
    return module.eval().requires_grad_(requires_grad=False)


def _require_equal_keys(name: str, expected: Shapes, got: Shapes) -> None:
    unknown = [key for key in got if key not in expected]
    missing = [key for key in expected if key not in got and not key.endswith(_OPTIONAL_SUFFIX)]
    if unknown or missing:
        raise RecognitionError(
            f"The checkpoint comes closest to {name}, but its keys do not fit.",
            expected=_some(missing, "and no other key") if missing else "no further key",
            got=_some(unknown, "unknown") if unknown else "none of these",
            fix="check that the file holds an unmodified network of this architecture",
        )
    for key, shape in expected.items():
        if key in got and got[key] != shape:
            raise RecognitionError(
                f"A tensor does not have the shape that {name} gives it.",
                where=key,
                expected=str(list(shape)),
                got=str(list(got[key])),
            )


def _some(keys: list[str], remark: str) -> str:
    more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
    return f"{', '.join(keys[:_SHOWN_KEYS])}{more} ({remark})"
