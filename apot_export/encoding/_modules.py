"""Modules of PyTorch as operations, and their tensors as layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from apot_export.errors import CaptureError
from apot_export.network import (
    ActivationQuantizer,
    EightBitWeights,
    SourceLayer,
    WeightQuantizer,
)
from apot_export.network import operations as op
from apot_export.original import families
from apot_export.original.moments import weight_moments
from apot_export.original.quantized_layers import (
    FirstConv2d,
    LastLinear,
    QuantizedLayer,
    ThresholdLayer,
    is_plain,
    padding_of,
)

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm
KNOWN = (
    "layers, additions, concatenation of channels, ReLU, clips, pools, upsampling, and flattening "
    "all but the batch axis"
)
"""What networks are made of, for messages."""


def module_operation(path: str, module: nn.Module, layers: dict[str, SourceLayer]) -> op.Operation:
    """Return a module's operation, adding its layer.

    Args:
        path: The module's dotted path.
        module: The module.
        layers: Weighted layers by path.

    Raises:
        CaptureError: The intermediate representation has no such operation.
    """
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        if isinstance(module, QuantizedLayer) or is_plain(module):
            return _weighted(path, module, layers)
    elif isinstance(module, BatchNorm):
        return _batch_norm(path, module)
    raise CaptureError(
        "The network holds a layer that the exporter does not know.",
        where=path,
        expected=KNOWN,
        got=type(module).__name__,
    )


def _weighted(
    path: str, module: nn.Conv2d | nn.Linear, layers: dict[str, SourceLayer]
) -> op.Convolution | op.Linear:
    layers[path] = _source_layer(path, module)
    if isinstance(module, nn.Linear):
        return op.Linear(layer=path)
    padding = padding_of(module)
    assert padding is not None  # others are operations of their own in the trace
    return op.Convolution(
        layer=path,
        stride=_pair(module.stride),
        padding=padding,
        dilation=_pair(module.dilation),
        groups=module.groups,
    )


def _source_layer(path: str, module: nn.Conv2d | nn.Linear) -> SourceLayer:
    weight = _array(module.weight)
    bias = None if module.bias is None else _array(module.bias)
    if not isinstance(module, ThresholdLayer):
        eight_bit = EightBitWeights() if isinstance(module, (FirstConv2d, LastLinear)) else None
        return SourceLayer(name=path, weight=weight, quantizer=eight_bit, bias=bias)
    quantization = module.quantization
    family = families.by_name(quantization.family)
    rule = family.weight_rule(quantization)
    activation, passes_negative_inputs = None, False
    if module.quantizes_input:
        activation_rule = family.activation_rule(quantization)
        passes_negative_inputs = activation_rule.passes_negative_inputs
        activation = ActivationQuantizer(
            codebook=activation_rule.codebook,
            alpha=np.float32(module.act_alpha.item()),
            input_denominator=activation_rule.input_denominator,
        )
    mean = std = None
    if quantization.normalize_weights:
        mean, std = (np.float32(moment.item()) for moment in weight_moments(module.weight))
    return SourceLayer(
        name=path,
        weight=weight,
        quantizer=WeightQuantizer(
            codebook=rule.codebook,
            rule=rule.rule,
            candidates=rule.candidates,
            zeros="positive" if quantization.unsigned_zeros else rule.zeros,
            alpha=_thresholds(module.weight_alpha),
            mean=mean,
            std=std,
        ),
        bias=bias,
        activation=activation,
        passes_negative_inputs=passes_negative_inputs,
    )


def _thresholds(alpha: torch.Tensor) -> np.float32 | np.ndarray[Any, np.dtype[np.float32]]:
    """Return one threshold, or one an output channel."""
    return np.float32(alpha.item()) if alpha.numel() == 1 else _array(alpha).reshape(-1)


def _batch_norm(path: str, module: BatchNorm) -> op.ScaleBias:
    if module.running_mean is None or module.running_var is None:
        raise CaptureError("A batch-norm has no running statistics.", where=path)
    mean, variance = _array(module.running_mean, np.float64), _array(module.running_var, np.float64)
    if not (variance + module.eps > 0).all():
        raise CaptureError(
            "A batch-norm's running variance is negative or not a number.",
            where=f"{path}.running_var",
            expected="finite values of at least 0",
            got=str(float(np.min(variance))),
            fix="convert a checkpoint of an epoch in which training had not diverged",
        )
    scale = 1.0 / np.sqrt(variance + module.eps)
    if not module.affine:
        return op.ScaleBias(scale=scale, bias=-mean * scale)
    scale = scale * _array(module.weight, np.float64)
    return op.ScaleBias(scale=scale, bias=_array(module.bias, np.float64) - mean * scale)


def _pair(value: Any) -> op.Pair:
    height, width = value if isinstance(value, (tuple, list)) else (value, value)
    return (int(height), int(width))


def _array(tensor: torch.Tensor, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=dtype)
