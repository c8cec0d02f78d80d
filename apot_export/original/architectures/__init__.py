"""The published network architectures, recognised from a state dict's keys and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from apot_export.errors import RecognitionError
from apot_export.original.architectures import lenet, mobilenet_v2, resnet, vgg
from apot_export.original.architectures._closest import closest
from apot_export.original.architectures._protocol import Architecture, Shapes
from apot_export.original.loading import load_state, some_keys
from apot_export.original.quantization import Quantization
from apot_export.original.quantized_layers import QuantConv2d, dress

_RECOGNISERS: tuple[Callable[[Shapes], Architecture | None], ...] = (
    resnet.recognise,
    mobilenet_v2.recognise,
    vgg.recognise,
    lenet.recognise,
)


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
    raise RecognitionError(
        f"The checkpoint's keys describe no known architecture; {name} comes closest.",
        expected="a ResNet (conv1, layer1, ..., fc), MobileNetV2, VGG or LeNet5 of the field",
        got=f"for {name} {some_keys(missing, 'missing')}; {some_keys(others, 'unknown')}",
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
