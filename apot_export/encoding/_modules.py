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
    AveragePool,
    Clip,
    Convolution,
    EightBitWeights,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Operation,
    Pair,
    Relu,
    ScaleBias,
    Shape,
    SourceLayer,
    Upsample,
    WeightQuantizer,
)
from apot_export.original import families
from apot_export.original.quantized_layers import (
    FirstConv2d,
    LastLinear,
    QuantConv2d,
    QuantizedLayer,
)
from apot_export.original.tracing import is_plain

_VOID = (nn.Dropout, nn.Dropout2d, nn.Identity)
"""Modules that compute nothing in evaluation mode."""


def module_operation(
    path: str, module: nn.Module, image: Callable[[], Shape], layers: dict[str, SourceLayer]
) -> Operation | None:
    """Return a module's operation, adding its layer; None where evaluation mode makes it void.

    Args:
        path: The module's dotted path, or the line of a function that computes the same.
        module: The module.
        image: Tells the shape of its input without the batch axis.
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
    if isinstance(module, nn.Upsample):
        return _upsample(path, module, image())
    if isinstance(module, nn.AdaptiveAvgPool2d) and _is_as_large(module, image):
        return None
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


def _weighted(
    path: str, module: nn.Conv2d | nn.Linear, layers: dict[str, SourceLayer]
) -> Convolution | Linear:
    layers[path] = _source_layer(path, module)
    if isinstance(module, nn.Linear):
        return Linear(layer=path)
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise CaptureError(
            "A convolution pads in a way that the graph cannot express.",
            where=path,
            expected="numeric zero padding",
            got=f"{module.padding_mode}, {module.padding}",
        )
    return Convolution(
        layer=path,
        stride=_pair(module.stride),
        padding=_pair(module.padding),
        dilation=_pair(module.dilation),
        groups=module.groups,
    )


def _source_layer(path: str, module: nn.Conv2d | nn.Linear) -> SourceLayer:
    weight = _array(module.weight)
    bias = None if module.bias is None else _array(module.bias)
    if isinstance(module, QuantConv2d):
        quantization = module.quantization
        family = families.by_name(quantization.family)
        rule = family.weight_rule(quantization)
        normalized = quantization.normalize_weights
        quantizer = WeightQuantizer(
            codebook=rule.codebook,
            rule=rule.rule,
            candidates=rule.candidates,
            zeros="positive" if quantization.unsigned_zeros else rule.zeros,
            alpha=np.float32(module.weight_alpha.item()),
            # With PyTorch's own reductions: an ulp in either could move a weight over a boundary.
            mean=np.float32(module.weight.mean().item()) if normalized else None,
            std=np.float32(module.weight.std().item()) if normalized else None,
        )
        activation_rule = family.activation_rule(quantization)
        activation = ActivationQuantizer(
            codebook=activation_rule.codebook,
            alpha=np.float32(module.act_alpha.item()),
            input_denominator=activation_rule.input_denominator,
        )
        return SourceLayer(
            name=path,
            weight=weight,
            quantizer=quantizer,
            bias=bias,
            activation=activation,
            passes_negative_inputs=activation_rule.passes_negative_inputs,
        )
    eight_bit = isinstance(module, (FirstConv2d, LastLinear))
    return SourceLayer(
        name=path, weight=weight, quantizer=EightBitWeights() if eight_bit else None, bias=bias
    )


def _batch_norm(path: str, module: nn.BatchNorm1d | nn.BatchNorm2d) -> ScaleBias:
    if module.running_mean is None or module.running_var is None:
        raise CaptureError("A batch-norm has no running statistics.", where=path)
    mean = _array(module.running_mean).astype(np.float64)
    variance = _array(module.running_var).astype(np.float64)
    if not (variance + module.eps > 0).all():
        raise CaptureError(
            "A batch-norm's running variance is negative or not a number.",
            where=f"{path}.running_var",
            expected="finite values of at least 0",
            got=str(float(np.min(variance))),
        )
    scale = 1.0 / np.sqrt(variance + module.eps)
    if module.affine:
        scale = scale * _array(module.weight).astype(np.float64)
        return ScaleBias(scale=scale, bias=_array(module.bias).astype(np.float64) - mean * scale)
    return ScaleBias(scale=scale, bias=-mean * scale)


def _max_pool(path: str, module: nn.MaxPool2d) -> MaxPool:
    if _pair(module.dilation) != (1, 1) or module.ceil_mode or module.return_indices:
        raise CaptureError(
            "A max-pool has options that the graph cannot express.",
            where=path,
            expected="no dilation, no ceil mode, no indices",
            got=str(module),
        )
    return MaxPool(
        kernel=_pair(module.kernel_size),
        stride=_pair(module.stride),
        padding=_pair(module.padding),
    )


def _average_pool(path: str, module: nn.AvgPool2d) -> AveragePool:
    if _pair(module.padding) != (0, 0) or module.ceil_mode or module.divisor_override:
        raise CaptureError(
            "An average-pool has options that the graph cannot express.",
            where=path,
            expected="no padding, no ceil mode, no divisor",
            got=str(module),
        )
    return AveragePool(kernel=_pair(module.kernel_size), stride=_pair(module.stride))


def _adaptive_pool(path: str, module: nn.AdaptiveAvgPool2d) -> GlobalAveragePool:
    if module.output_size not in (1, (1, 1)):
        raise CaptureError(
            "An adaptive average-pool must average the whole image.",
            where=path,
            expected="output size 1",
            got=str(module.output_size),
        )
    return GlobalAveragePool()


def _is_as_large(module: nn.AdaptiveAvgPool2d, image: Callable[[], Shape]) -> bool:
    """Tell whether an adaptive pool leaves the image as it is, being there for larger ones."""
    wanted: Any = module.output_size
    pair = (wanted, wanted) if isinstance(wanted, int) else tuple(wanted)
    return pair != (1, 1) and pair == image()[1:]


def _flatten(path: str, module: nn.Flatten) -> Flatten:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise CaptureError("A flatten must keep the batch axis only.", where=path, got=str(module))
    return Flatten()


def _hardtanh(path: str, module: nn.Hardtanh) -> Clip:
    low, high = float(module.min_val), float(module.max_val)
    if not low <= high:
        raise CaptureError(
            "A clip's range is empty.", where=path, expected="a minimum below", got=str(module)
        )
    return Clip(minimum=low, maximum=high)


def _upsample(path: str, module: nn.Upsample, image: Shape) -> Upsample:
    if module.size is not None:
        factors = [wanted / has for wanted, has in zip(_pair(module.size), image[1:], strict=False)]
    elif isinstance(module.scale_factor, tuple):
        factors = list(module.scale_factor)
    else:
        factors = [module.scale_factor or 0.0] * 2
    whole = all(float(factor).is_integer() and factor >= 1 for factor in factors)
    if module.mode != "nearest" or len(factors) != 2 or not whole:  # noqa: PLR2004 - height, width
        raise CaptureError(
            "The graph cannot express an upsampling.",
            where=path,
            expected="nearest neighbour by whole factors",
            got=f"{module} of an image {list(image)}",
        )
    return Upsample(scale=(int(factors[0]), int(factors[1])))


def _relu(_path: str, _module: nn.ReLU) -> Relu:
    return Relu()


_PLAIN_MODULES: dict[type[nn.Module], Callable[[str, Any], Operation]] = {
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _relu,
    nn.Hardtanh: _hardtanh,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.Flatten: _flatten,
}


def _pair(value: Any) -> Pair:
    height, width = (value, value) if isinstance(value, int) else value
    return (int(height), int(width))


def _array(tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)
