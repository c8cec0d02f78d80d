"""The original of a network of the user's own: recognised, compared and rebuilt of our layers."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from apot_export.errors import ModelError, RecognitionError
from apot_export.network.layers import MultiBitWeights
from apot_export.original import families
from apot_export.original.architectures import Architecture
from apot_export.original.checkpoint import Checkpoint, load_checkpoint, require_finite
from apot_export.original.choices import Choices
from apot_export.original.custom._agreement import require_agreement
from apot_export.original.custom._factory import build, load_state
from apot_export.original.custom._layers import (
    ThresholdLayer,
    float_replacement,
    threshold_layer,
    threshold_replacement,
    weighted_layers,
)
from apot_export.original.custom._resolve import Resolved, resolve
from apot_export.original.custom._spec import ImageShape, ModelSpec
from apot_export.original.multi_bit import multi_bit_layers, shorten_coordinates
from apot_export.original.original import Original
from apot_export.original.quantization import FULL_PRECISION_BITS, LayerPlan, Quantization
from apot_export.original.quantized_layers import QuantConv2d

_MULTI_BIT = "alq"
_FULL_PRECISION = "full-precision"


def load_custom(path: Path, choices: Choices, spec: ModelSpec) -> Original:
    """Load a checkpoint into a network of the user's own, whose code this imports and runs.

    Raises:
        CheckpointError: The file cannot be loaded safely, or does not fit the network.
        ModelError: The network cannot be imported, built or run.
        BitWidthError: A bit-width is not given, or contradicts the network's.
        CodebookError: A level set or grid contradicts the network's.
    """
    checkpoint = load_checkpoint(path)
    require_finite(checkpoint.state)
    module = build(spec, (Path.cwd(), path.absolute().parent))
    load_state(module, checkpoint.state, spec.factory)
    multi_bit = multi_bit_layers(checkpoint, checkpoint.state)
    return _original(module, spec.input_shape, choices, checkpoint, multi_bit)


def original_of_module(module: nn.Module, input_shape: ImageShape, choices: Choices) -> Original:
    """Take a network of the user's own, in memory, as the original; it stays as it is.

    Raises:
        ModelError: The network does not run on such images.
        RecognitionError: A layer is of no known family, or computes something else.
        BitWidthError: A bit-width is not given, or contradicts the network's.
        CodebookError: A level set or grid contradicts the network's.
        WeightError: A tensor has values that are not finite.
    """
    inner = module.module if isinstance(module, nn.DataParallel) else module
    state = {key: value for key, value in inner.state_dict().items() if value.is_floating_point()}
    for key, value in state.items():
        if value.dtype != torch.float32:
            raise RecognitionError(
                "A tensor of the network has a type that the families do not use.",
                where=key,
                expected="float32",
                got=str(value.dtype),
                fix="convert the network in the precision of its training",
            )
    require_finite(state)
    return _original(inner, input_shape, choices, None, {})


def state_sha256(module: nn.Module) -> str:
    """Return a digest of a module's state dict: every tensor's key, type, shape and bytes."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        if isinstance(value, torch.Tensor):
            array = value.detach().cpu().contiguous().numpy()
            digest.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _original(
    module: nn.Module,
    input_shape: ImageShape,
    choices: Choices,
    checkpoint: Checkpoint | None,
    multi_bit: Mapping[str, MultiBitWeights],
) -> Original:
    digest = state_sha256(module)
    found: list[ThresholdLayer] = []
    replacements: dict[nn.Module, nn.Module] = {}
    ours: dict[str, Quantization] = {}
    for name, layer in weighted_layers(module):
        if isinstance(layer, QuantConv2d):
            ours[name] = layer.quantization
        elif (recognised := threshold_layer(name, layer)) is not None:
            found.append(recognised)
        elif (replacement := float_replacement(name, layer)) is not None:
            replacements[layer] = replacement
    resolved = resolve(found, ours, choices, checkpoint.path if checkpoint else None)
    for recognised in found:
        quantization = resolved.quantization[recognised.name]
        replacements[recognised.layer] = threshold_replacement(recognised, quantization)
    used = require_agreement(module, replacements, input_shape)
    names = [name for name, layer in weighted_layers(module) if layer in used]
    rebuilt = _rebuilt(module, replacements, used)
    if choices.alpha_terms:
        shorten_coordinates(rebuilt, multi_bit, choices.alpha_terms)
    default = _default(resolved, multi_bit)
    return Original(
        checkpoint=checkpoint,
        state_sha256=digest,
        family=families.by_name(default.family),
        architecture=Architecture(
            name=type(module).__name__,
            input_shape=input_shape,
            first=names[0],
            last=names[-1],
            build=lambda: copy.deepcopy(rebuilt),
        ),
        plan=LayerPlan(default=default),
        bits_from=resolved.bits_from,
        method_from=resolved.method_from,
        grid_from=resolved.grid_from,
        module=rebuilt,
        multi_bit=multi_bit,
        custom_choices=resolved.choices,
    )


def _rebuilt(
    module: nn.Module, replacements: Mapping[nn.Module, nn.Module], used: set[nn.Module]
) -> nn.Module:
    """Return a copy of the network with our layers in it, on the CPU, in evaluation mode.

    Layers that the forward pass does not use, such as auxiliary heads of training, are left out.
    """
    # What is in the memo is not copied, but put where the original was, however often it is used.
    memo: dict[int, Any] = {id(layer): made for layer, made in replacements.items()}
    for _, layer in weighted_layers(module):
        if layer not in used:
            memo[id(layer)] = nn.Identity()
    try:
        rebuilt = copy.deepcopy(module, memo)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            "The network cannot be copied.",
            where=type(module).__name__,
            expected="a module that copy.deepcopy can copy",
            got=str(error).splitlines()[0],
        ) from error
    return rebuilt.cpu().eval().requires_grad_(requires_grad=False)


def _default(resolved: Resolved, multi_bit: Mapping[str, MultiBitWeights]) -> Quantization:
    """Return the quantization of most layers."""
    if resolved.quantization:
        ((default, _),) = Counter(resolved.quantization.values()).most_common(1)
        return default
    return Quantization(
        family=_MULTI_BIT if multi_bit else _FULL_PRECISION,
        weight_bits=FULL_PRECISION_BITS,
        activation_bits=FULL_PRECISION_BITS,
    )
