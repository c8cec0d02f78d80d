"""From a PyTorch module to a source network, with the quantized layers as leaves."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from apot_export import dialects
from apot_export.errors import CaptureError
from apot_export.network import (
    ActivationQuantizer,
    Add,
    AveragePool,
    Clip,
    Convolution,
    EightBitWeights,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    MultiBitWeights,
    Node,
    Operation,
    Pair,
    Relu,
    ScaleBias,
    SourceLayer,
    SourceNetwork,
    Upsample,
    WeightQuantizer,
)
from apot_export.torch_layers import FirstConv2d, LastLinear, QuantConv2d


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LEAVES) or super().is_leaf_module(m, module_qualified_name)


def trace(module: nn.Module) -> fx.GraphModule:
    """Trace a module's forward pass down to its layers.

    Raises:
        CaptureError: The forward pass depends on data in a way that no graph can say.
    """
    try:
        return fx.GraphModule(module, _Tracer().trace(module))
    except (fx.proxy.TraceError, TypeError, ValueError) as error:
        raise CaptureError(
            "The network's forward pass cannot be captured as a graph.",
            where=type(module).__name__,
            expected="a forward pass without data-dependent control flow",
            got=str(error).splitlines()[0],
        ) from error


def value_names(traced: fx.GraphModule) -> dict[str, str]:
    """Map every fx node name to the name of its value in the intermediate representation.

    A layer's output has the layer's dotted path; repeated calls get a number; a function's output
    is named after the module whose layers surround it.
    """
    names: dict[str, str] = {}
    used: set[str] = set()
    scope = ""
    for node in traced.graph.nodes:
        if node.op == "call_module":
            wanted = str(node.target)
            scope = wanted.rpartition(".")[0]
        elif node.op in ("call_function", "call_method"):
            function = node.target if isinstance(node.target, str) else node.target.__name__
            wanted = ".".join(filter(None, (scope, function.strip("_"))))
        else:
            wanted = str(node.name)
        name, number = wanted, 1
        while name in used:
            number += 1
            name = f"{wanted}_{number}"
        used.add(name)
        names[node.name] = name
    return names


def capture(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    multi_bit: Mapping[str, MultiBitWeights] | None = None,
) -> SourceNetwork:
    """Capture a module in evaluation mode.

    Args:
        module: A network of the layers in `torch_layers` and plain PyTorch ones.
        input_shape: One image: (channels, height, width).
        multi_bit: Weights that are sums of scaled sign vectors, by layer.

    Raises:
        CaptureError: The graph cannot be traced or holds an unknown operation.
    """
    traced = trace(module)
    names = value_names(traced)
    layers: dict[str, SourceLayer] = {}
    nodes: list[Node] = []
    alias: dict[str, str] = {}
    """fx nodes that compute nothing in evaluation mode, and the value that they pass on."""
    overwritten: set[str] = set()
    """Values that an operation in place has replaced: the graph cannot say what a reader gets."""
    network_input = output = ""
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            if network_input:
                raise CaptureError("The network has more than one input.", where=node.name)
            network_input = alias[node.name] = names[node.name]
            continue
        arguments = _arguments(node, alias, overwritten)
        if _is_in_place(traced, node):
            overwritten.update(arguments[:1])
        if node.op == "output":
            if len(arguments) != 1:
                raise CaptureError("The network must return one tensor.", where=str(node.args))
            output = arguments[0]
            continue
        if node.op == "call_module":
            operation = _module_operation(traced, str(node.target), layers)
            if operation is None:
                alias[node.name] = arguments[0]
                continue
        else:
            operation = _function_operation(node)
        alias[node.name] = names[node.name]
        nodes.append(Node(name=names[node.name], inputs=tuple(arguments), operation=operation))
    for name, weights in (multi_bit or {}).items():
        layers[name] = dataclasses.replace(layers[name], quantizer=weights)
    return SourceNetwork(
        nodes=tuple(nodes),
        layers=layers,
        input=network_input,
        input_shape=input_shape,
        output=output,
    )


def _arguments(node: fx.Node, alias: dict[str, str], overwritten: set[str]) -> list[str]:
    """Return the names of the values that a node reads."""
    if any(isinstance(argument, fx.Node) for argument in node.kwargs.values()):
        raise CaptureError(
            "A tensor is passed by keyword.", where=str(node.name), fix="pass it by position"
        )
    arguments = [alias[argument.name] for argument in node.args if isinstance(argument, fx.Node)]
    for value in overwritten.intersection(arguments):
        raise CaptureError(
            "A value is read again after an operation has overwritten it in place.",
            where=str(node.name),
            expected="operations that are not in place where their input is still needed",
            got=value,
        )
    return arguments


# --- modules --------------------------------------------------------------------------------------


def _module_operation(
    traced: fx.GraphModule, path: str, layers: dict[str, SourceLayer]
) -> Operation | None:
    """Return a module's operation, adding its layer; None where evaluation mode makes it void."""
    module = traced.get_submodule(path)
    if isinstance(module, (nn.Dropout, nn.Identity)):
        return None
    if isinstance(module, nn.Conv2d):
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise CaptureError(
                "A convolution pads in a way that the graph cannot say.",
                where=path,
                expected="numeric zero padding",
                got=f"{module.padding_mode}, {module.padding}",
            )
        layers[path] = _source_layer(path, module)
        return Convolution(
            layer=path,
            stride=_pair(module.stride),
            padding=_pair(module.padding),
            dilation=_pair(module.dilation),
            groups=module.groups,
        )
    if isinstance(module, nn.Linear):
        layers[path] = _source_layer(path, module)
        return Linear(layer=path)
    for kind, operation in _PLAIN_MODULES.items():
        if isinstance(module, kind):
            return operation(path, module)
    raise CaptureError(
        "The network holds a layer that the exporter does not know.",
        where=path,
        expected=", ".join(sorted(kind.__name__ for kind in (*_LEAVES, *_PLAIN_MODULES))),
        got=type(module).__name__,
    )


def _source_layer(path: str, module: nn.Conv2d | nn.Linear) -> SourceLayer:
    weight = _array(module.weight)
    bias = None if module.bias is None else _array(module.bias)
    if isinstance(module, QuantConv2d):
        quantization = module.quantization
        dialect = dialects.by_name(quantization.family)
        rule = dialect.weight_rule(quantization)
        normalized = quantization.normalize_weights
        quantizer = WeightQuantizer(
            codebook=rule.codebook,
            rule=rule.rule,
            candidates=rule.candidates,
            zeros=rule.zeros,
            alpha=np.float32(module.weight_alpha.item()),
            # With PyTorch's own reductions: an ulp in either could move a weight over a boundary.
            mean=np.float32(module.weight.mean().item()) if normalized else None,
            std=np.float32(module.weight.std().item()) if normalized else None,
        )
        activation_rule = dialect.activation_rule(quantization)
        activation = ActivationQuantizer(
            codebook=activation_rule.codebook,
            alpha=np.float32(module.act_alpha.item()),
            input_denominator=activation_rule.input_denominator,
        )
        return SourceLayer(
            name=path, weight=weight, quantizer=quantizer, bias=bias, activation=activation
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
            "A max-pool has options that the graph cannot say.",
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
            "An average-pool has options that the graph cannot say.",
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


def _flatten(path: str, module: nn.Flatten) -> Flatten:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise CaptureError("A flatten must keep the batch axis only.", where=path, got=str(module))
    return Flatten()


def _relu6(_path: str, _module: nn.ReLU6) -> Clip:
    return Clip(minimum=0.0, maximum=6.0)


def _upsample(path: str, module: nn.Upsample) -> Upsample:
    scale = module.scale_factor or 0.5  # none given: the size is, which no scale can say
    pair = scale if isinstance(scale, tuple) else (scale, scale)
    if module.mode != "nearest" or not all(float(factor).is_integer() for factor in pair):
        raise CaptureError(
            "An upsampling cannot be said by the graph.",
            where=path,
            expected="nearest neighbour by whole factors",
            got=str(module),
        )
    return Upsample(scale=_pair(tuple(int(factor) for factor in pair)))


def _relu(_path: str, _module: nn.ReLU) -> Relu:
    return Relu()


_LEAVES = (QuantConv2d, FirstConv2d, LastLinear)
_PLAIN_MODULES: dict[type[nn.Module], Callable[[str, Any], Operation]] = {
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _relu,
    nn.ReLU6: _relu6,
    nn.Upsample: _upsample,
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


# --- functions ------------------------------------------------------------------------------------


def _is_in_place(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether an operation leaves its result in its first argument, too."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        return isinstance(module, nn.ReLU) and module.inplace
    if node.target is functional.relu:
        return True in node.args or node.kwargs.get("inplace") is True
    return node.target in _IN_PLACE


_IN_PLACE = (operator.iadd, "add_", "relu_")
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_RELUS = (torch.relu, functional.relu, "relu", "relu_")
_FLATTENS = (torch.flatten, "flatten")


def _function_operation(node: fx.Node) -> Operation:
    tensors = [argument for argument in node.args if isinstance(argument, fx.Node)]
    options = dict(node.kwargs)
    if node.target in _ADDITIONS and len(tensors) == len(node.args) == 2 and not options:  # noqa: PLR2004 - a + b
        return Add()
    if node.target in _RELUS:
        return Relu()
    if node.target in _FLATTENS:
        options |= zip(("start_dim", "end_dim"), node.args[1:], strict=False)
        if options in ({"start_dim": 1}, {"start_dim": 1, "end_dim": -1}):
            return Flatten()
    raise CaptureError(
        "The network does something that the exporter does not know.",
        where=str(node.name),
        expected="layers, additions, ReLU, pools and flatten(1)",
        got=node.format_node() or str(node.target),
    )
