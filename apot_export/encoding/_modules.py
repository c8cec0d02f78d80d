"""Modules of PyTorch as operations, and their tensors as layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from apot_export.errors import CaptureError
from apot_export.network import (
    ActivationQuantizer,
    EightBitWeights,
    Shape,
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
    padding_of,
)
from apot_export.original.tracing import is_plain

_VOID = (nn.Dropout, nn.Dropout2d, nn.Identity)
"""Modules that compute nothing in evaluation mode."""
_OF_IMAGES = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Upsample)
_IMAGE_AXES = 3
"""Channels, height, width."""


def module_operation(
    path: str, module: nn.Module, image: Shape, layers: dict[str, SourceLayer]
) -> op.Operation | None:
    """Return a module's operation, adding its layer; None where evaluation mode makes it void.

    Args:
        path: The module's dotted path, or the line of a function that computes the same.
        module: The module.
        image: Shape of its input without the batch axis.
        layers: Weighted layers by path.

    Raises:
        CaptureError: The intermediate representation has no such operation.
    """
    if isinstance(module, _VOID):
        return None
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        if not (isinstance(module, QuantizedLayer) or is_plain(module)):
            raise _unknown(path, module)
        return _weighted(path, module, layers)
    if isinstance(module, _OF_IMAGES):
        _require(
            len(image) == _IMAGE_AXES,
            "A pool or an upsampling reads what is no image.",
            path,
            expected="[N, channels, height, width]",
            got=["N", *image],
        )
    if isinstance(module, nn.Upsample):
        return _upsample(module, image)
    for kind, operation in _PLAIN_MODULES.items():
        if isinstance(module, kind):
            return operation(path, module)
    raise _unknown(path, module)


def is_in_place(module: nn.Module) -> bool:
    """Tell whether a module leaves its result in its input, too."""
    return isinstance(module, (nn.ReLU, nn.Hardtanh)) and module.inplace


def _unknown(path: str, module: nn.Module) -> CaptureError:
    known = sorted(kind.__name__ for kind in (*QuantizedLayer, *_PLAIN_MODULES, nn.Upsample))
    return CaptureError(
        "The network holds a layer that the exporter does not know.",
        where=path,
        expected=", ".join(["Conv2d", "Linear", *known]),
        got=type(module).__name__,
    )


def _require(
    fits: bool, what: str, path: str, expected: str, got: object, fix: str | None = None
) -> None:
    if not fits:
        raise CaptureError(what, where=path, expected=expected, got=str(got), fix=fix)


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


def _batch_norm(path: str, module: nn.BatchNorm1d | nn.BatchNorm2d) -> op.ScaleBias:
    if module.running_mean is None or module.running_var is None:
        raise CaptureError("A batch-norm has no running statistics.", where=path)
    mean, variance = _array(module.running_mean, np.float64), _array(module.running_var, np.float64)
    _require(
        bool((variance + module.eps > 0).all()),
        "A batch-norm's running variance is negative or not a number.",
        f"{path}.running_var",
        expected="finite values of at least 0",
        got=float(np.min(variance)),
        fix="convert a checkpoint of an epoch in which training had not diverged",
    )
    scale = 1.0 / np.sqrt(variance + module.eps)
    if not module.affine:
        return op.ScaleBias(scale=scale, bias=-mean * scale)
    scale = scale * _array(module.weight, np.float64)
    return op.ScaleBias(scale=scale, bias=_array(module.bias, np.float64) - mean * scale)


def _max_pool(path: str, module: nn.MaxPool2d) -> op.MaxPool:
    _require(
        _pair(module.dilation) == (1, 1) and not (module.ceil_mode or module.return_indices),
        "A max-pool has options that the graph cannot express.",
        path,
        expected="no dilation, no ceil mode, no indices",
        got=module,
    )
    return op.MaxPool(
        kernel=_pair(module.kernel_size),
        stride=_pair(module.stride),
        padding=_pair(module.padding),
    )


def _hardtanh(path: str, module: nn.Hardtanh) -> op.Clip:
    low, high = float(module.min_val), float(module.max_val)
    _require(low <= high, "A clip's range is empty.", path, "a minimum below", module)
    return op.Clip(minimum=low, maximum=high)


def _upsample(module: nn.Upsample, image: Shape) -> op.Upsample:
    """Return nearest neighbours by whole factors; others are operations of their own in a trace."""
    if module.size is None:
        return op.Upsample(scale=_pair(module.scale_factor))
    (height, width), (_, *extents) = _pair(module.size), image
    return op.Upsample(scale=(height // extents[0], width // extents[1]))


_PLAIN_MODULES: dict[type[nn.Module], Callable[[str, Any], op.Operation]] = {
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.SyncBatchNorm: _batch_norm,
    nn.ReLU: lambda _path, _module: op.Relu(),
    nn.Hardtanh: _hardtanh,
    nn.MaxPool2d: _max_pool,
    # In the forms that a trace leaves; the others are operations of their own there.
    nn.AvgPool2d: lambda _path, module: op.AveragePool(
        kernel=_pair(module.kernel_size), stride=_pair(module.stride)
    ),
    nn.AdaptiveAvgPool2d: lambda _path, _module: op.GlobalAveragePool(),
    nn.Flatten: lambda _path, _module: op.Flatten(),
}


def _pair(value: Any) -> op.Pair:
    height, width = value if isinstance(value, (tuple, list)) else (value, value)
    return (int(height), int(width))


def _array(tensor: torch.Tensor, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=dtype)
