"""The networks of the field, recognised from a state dict's keys and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from apot_export.errors import RecognitionError
from apot_export.original.architectures import lenet, mobilenet_v2, resnet, vgg
from apot_export.original.architectures._closest import closest
from apot_export.original.architectures._protocol import Architecture, Shapes
from apot_export.original.quantization import Quantization
from apot_export.original.quantized_layers import QuantConv2d, dress

_RECOGNISERS: tuple[Callable[[Shapes], Architecture | None], ...] = (
    resnet.recognise,
    mobilenet_v2.recognise,
    vgg.recognise,
    lenet.recognise,
)
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
            return found
    name, missing, others = closest(shapes)
    shown = [_some(keys, remark) for keys, remark in ((missing, "missing"), (others, "unknown"))]
    raise RecognitionError(
        f"The checkpoint's keys describe no known architecture; {name} comes closest.",
        expected="a ResNet (conv1, layer1, ..., fc), MobileNetV2, VGG or LeNet5 of the field",
        got=f"for {name} {shown[0]}; {shown[1]}",
        fix="check that the file holds the state dict of one of these networks, "
        "or name its constructor with --model PACKAGE.MODULE:FACTORY",
    )


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
    load_state(module, state, f"{architecture.name} of the family {family}")
    return module


def load_state(module: nn.Module, state: Mapping[str, torch.Tensor], name: str) -> None:
    """Put a state dict's tensors into a module, which evaluates from then on.

    Raises:
        RecognitionError: Keys are missing, unknown, or of another shape than the module's.
    """
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    got = {key: tuple(value.shape) for key, value in state.items()}
    _require_equal_keys(name, expected, got)
    complete = dict(state)
    for key in expected:
        if key.endswith(_OPTIONAL_SUFFIX):
            complete.setdefault(key, torch.zeros((), dtype=torch.int64))
    module.load_state_dict(complete, assign=True)
    for submodule in module.modules():
        if isinstance(submodule, QuantConv2d):
            submodule.reset_level_sets()
    module.eval().requires_grad_(requires_grad=False)


def _require_equal_keys(name: str, expected: Shapes, got: Shapes) -> None:
    unknown = [key for key in got if key not in expected]
    missing = [key for key in expected if key not in got and not key.endswith(_OPTIONAL_SUFFIX)]
    if unknown or missing:
        raise RecognitionError(
            f"The checkpoint comes closest to {name}, but its keys do not fit.",
            expected=_some(missing, "and no other key") if missing else "no further key",
            got=_some(unknown, "unknown") if unknown else "none of these",
            fix="check that the file holds an unmodified network of this architecture, "
            "or name its constructor with --model PACKAGE.MODULE:FACTORY",
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
    if not keys:
        return f"nothing ({remark})"
    more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
    return f"{', '.join(keys[:_SHOWN_KEYS])}{more} ({remark})"


__all__ = ["Architecture", "Shapes", "build", "load_state", "recognise"]
