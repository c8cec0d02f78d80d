"""Check what FORMAT.md requires of a whole network: kinds of values, extents, names."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from apot_export.artifacts.packed._read_layers import INTEGER, PARAMETERS
from apot_export.artifacts.strict_json import LARGEST_INTEGER
from apot_export.network import ActivationQuantizer, CodedLayer, CodedNetwork, Node, PlaneLayer
from apot_export.network import operations as op

_FLOAT = "float32 values"
_ACCUMULATORS = "accumulators"
_SPATIAL = (op.MaxPool, op.AveragePool, op.GlobalAveragePool, op.Upsample)


def require_well_formed(network: CodedNetwork, tensors: Iterable[str]) -> None:
    """Check that every value is of the kind that its readers need, and that no tensor is unused.

    Args:
        network: The network as it was read.
        tensors: Names of the file's tensors.

    Raises:
        ValueError: A check failed.
    """
    for name, layer in network.layers.items():
        if len(layer.shape) not in {2, 4}:
            raise ValueError(f"{name}: weights of shape {list(layer.shape)}")
        if isinstance(layer, CodedLayer) and layer.activation is not None:
            _check_quantizer(name, layer.activation)
    kinds = {network.input: _FLOAT}
    for node in network.nodes:
        accepted, produced = _kinds(network, node)
        for source in node.inputs:
            if kinds[source] not in accepted:
                raise ValueError(f"{node.name}: {source} is of {kinds[source]}")
        kinds[node.name] = produced
        _check_geometry(network, node)
    if kinds[network.output] != _FLOAT:
        raise ValueError(f"the output {network.output} is of {kinds[network.output]}")
    for name, shape in network.shapes.items():
        if math.prod(shape) > LARGEST_INTEGER:
            raise ValueError(f"{name}: {list(shape)} is too large")
    _check_names(network, tensors)


def _check_quantizer(name: str, quantizer: ActivationQuantizer) -> None:
    if not 0 < quantizer.alpha < np.inf:
        raise ValueError(f"{name}: the activation threshold {quantizer.alpha} is not positive")
    with np.errstate(over="ignore"):
        if not np.isfinite(quantizer.index_scale):
            raise ValueError(f"{name}: the activation threshold {quantizer.alpha} is too small")
    if quantizer.codebook.levels.min() < 0:
        raise ValueError(f"{name}: an activation's levels must not be negative")


def _kinds(network: CodedNetwork, node: Node) -> tuple[set[str], str]:
    """Return the kinds of values that a node accepts, and the kind that it produces."""
    operation = node.operation
    if isinstance(operation, op.ScaleBias):
        return {_FLOAT, _ACCUMULATORS}, _FLOAT
    if not isinstance(operation, (op.Convolution, op.Linear, op.QuantizeActivation)):
        return {_FLOAT}, _FLOAT
    layer = network.layers[operation.layer]
    quantized = isinstance(layer, CodedLayer) and layer.activation is not None
    levels = f"levels of {operation.layer}"
    if isinstance(operation, op.QuantizeActivation):
        if not quantized:
            raise ValueError(f"{node.name}: {operation.layer} has no input quantizer")
        return {_FLOAT}, levels
    return ({levels}, _ACCUMULATORS) if quantized else ({_FLOAT}, _FLOAT)


def _check_geometry(network: CodedNetwork, node: Node) -> None:
    operation = node.operation
    rank = len(network.shapes[node.inputs[0]])
    if isinstance(operation, op.Convolution) and (
        network.layers[operation.layer].shape[0] % operation.groups
    ):
        raise ValueError(f"{node.name}: {operation.groups} groups do not divide the outputs")
    if isinstance(operation, _SPATIAL) and rank != 3:  # noqa: PLR2004 - C, H, W
        raise ValueError(f"{node.name}: pools an input without height and width")
    if isinstance(operation, op.Clip) and not operation.minimum <= operation.maximum:
        raise ValueError(f"{node.name}: clips to an empty range")
    if isinstance(operation, op.MaxPool) and any(
        padding >= kernel
        for padding, kernel in zip(operation.padding, operation.kernel, strict=True)
    ):
        raise ValueError(f"{node.name}: a window could lie in the padding alone")


def _check_names(network: CodedNetwork, tensors: Iterable[str]) -> None:
    named = {PARAMETERS, INTEGER}
    for name, layer in network.layers.items():
        parts: tuple[str, ...] = ("weight",)
        if isinstance(layer, CodedLayer):
            parts = ("codes",)
        elif isinstance(layer, PlaneLayer):
            parts = ("planes",) if layer.planes.terms is None else ("planes", "terms")
        named.update(f"{name}.{part}" for part in parts)
    if left_over := set(tensors) - named:
        raise ValueError(f"no layer has the tensor {min(left_over)}")
