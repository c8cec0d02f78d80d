"""The ONNX model of an integer network: integers from the fixed-point image to the logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from apot_export.artifacts.onnx_model._builder import GraphBuilder, attributes_of, narrowest
from apot_export.artifacts.onnx_model.functions import SPLIT
from apot_export.errors import IntegerError
from apot_export.integer import IntegerNetwork
from apot_export.integer import network as integer_op
from apot_export.integer.lowering import dyadic_coordinates
from apot_export.integer.network import IntegerNode
from apot_export.network import CodedLayer, CodedNetwork, PlaneLayer
from apot_export.network import operations as op
from apot_export.network.bounds import FLOAT32_EXACT, split_bits

_RAISED = 62
"""Bits of what makes every product positive before it is divided."""
_LARGEST_WINDOW = 256
_HALF = 2.0**16


def build_integer_model(
    coded: CodedNetwork,
    network: IntegerNetwork,
    *,
    name: str,
    tool: str,
    metadata: Mapping[str, str],
) -> onnx.ModelProto:
    """Build the model of an integer network.

    Args:
        coded: The network that it was lowered from, whose packed codes the model carries.
        network: The integer network.
        name: Name of the graph.
        tool: Name and version of the producer, separated by a blank.
        metadata: Model properties.

    Returns:
        A model with input `images`, float32 (or uint8 pixels) [batch, channels, height, width], and
        output `logits`, int64 [batch, classes]; `logit_scale` in its metadata makes them real.

    Raises:
        IntegerError: An operation is beyond what the bodies can carry exactly.
    """
    graph = _IntegerGraph(
        network=coded, input=network.input, output=network.output, integer=network
    )
    if network.pixels is not None:
        graph.types[network.input] = TensorProto.UINT8
    for node in network.nodes:
        graph.add(node)
    facts = {
        "logit_scale": str(network.logit_scale),
        "fraction_bits": str(network.fraction_bits),
        "input_bits": str(network.input_bits),
    }
    return graph.model(
        name,
        {network.input: network.input_shape, **{node.name: node.shape for node in network.nodes}},
        tool=tool,
        metadata={**metadata, **facts},
    )


@dataclass(kw_only=True)
class _IntegerGraph(GraphBuilder):
    integer: IntegerNetwork

    def add(self, node: IntegerNode) -> None:
        """Add what an integer node does."""
        adders: dict[type[Any], Callable[[IntegerNode, Any], int]] = {
            integer_op.ToFixed: self._add_to_fixed,
            op.Convolution: self._add_convolution,
            op.Linear: self._add_product,
            integer_op.Requantize: self._add_requantizer,
            integer_op.Quantize: self._add_thresholds,
            integer_op.WindowSum: self._add_total,
            op.MaxPool: self._add_maximum,
            integer_op.Clamp: self._add_clamp,
        }
        adder = adders.get(type(node.operation), self._add_same)
        self.types[node.name] = adder(node, node.operation)

    def _add_apot(
        self,
        operator: str,
        node: IntegerNode,
        *constants: str,
        body: str = "",
        **attributes: Any,
    ) -> None:
        """Add an operator that reads the node's inputs and constants."""
        inputs = [*self._inputs(node), *constants]
        self._apot(operator, inputs, self._value(node.name), body, **attributes)

    def _inputs(self, node: IntegerNode) -> list[str]:
        return [self._value(name) for name in node.inputs]

    def _source(self, node: IntegerNode) -> IntegerNode:
        """Return the node that makes a node's first input."""
        return next(other for other in self.integer.nodes if other.name == node.inputs[0])

    # --- weighted; each returns the element type of its value -------------------------------------

    def _add_convolution(self, node: IntegerNode, operation: op.Convolution) -> int:
        layer = self.integer.layers[operation.layer]
        attributes = attributes_of(operation)
        if layer.reads_levels:
            return self._add_levels("ShiftConv", node, operation.layer, attributes)
        out, group_inputs, *kernel = layer.weights.shape
        taps, groups = math.prod(kernel), operation.groups
        height, width = node.shape[1:]
        shapes = {
            "repeats": (groups * group_inputs, 1, 1, 1),
            "patches": (0, groups, group_inputs * taps, height * width),
            "rows": (groups, out // groups, group_inputs * taps),
            "flat": (0, out, height * width),
            "image": (0, out, height, width),
        }
        weights = self._integer_weights(operation.layer)
        one_hot = np.eye(taps, dtype=np.float32).reshape(taps, 1, *kernel)
        constants = {
            f"one_hot_{kernel[0]}x{kernel[1]}": one_hot,
            **{f"{node.name}.{name}": _int64(shape) for name, shape in shapes.items()},
        }
        attributes |= {"group": groups * group_inputs, "kernel_shape": kernel}
        self._add_apot("FixedConv", node, weights, *self._initializers(constants), **attributes)
        return TensorProto.INT64

    def _add_product(self, node: IntegerNode, operation: op.Linear) -> int:
        if self.integer.layers[operation.layer].reads_levels:
            return self._add_levels("ShiftGemm", node, operation.layer, {})
        self._add_apot("FixedGemm", node, self._integer_weights(operation.layer))
        return TensorProto.INT64

    def _add_levels(
        self, operator: str, node: IntegerNode, name: str, attributes: dict[str, Any]
    ) -> int:
        """Add sums of products of levels, which float32 holds whole or in two parts."""
        layer, bound = self.network.layers[name], self.integer.layers[name].bound
        assert isinstance(layer, CodedLayer)  # which alone reads levels
        constants, body = [self._decoded(layer)], ""
        if bound >= FLOAT32_EXACT:
            constants.append(self._low_size(split_bits(layer, bound)))
            body = SPLIT
        self._add_apot(operator, node, *constants, body=body, **attributes)
        return TensorProto.INT32

    def _integer_weights(self, name: str) -> str:
        """Add what decodes a layer's weights to integers.

        Sign vectors are decoded twice, with either half of their coordinates: float32 holds both.
        """
        layer = self.network.layers[name]
        if isinstance(layer, CodedLayer):
            return self._decoded(layer)
        assert isinstance(layer, PlaneLayer)  # Integer networks have no float weights.
        weights = f"{name}.integers"
        if f"{name}.low" in self.initializers:
            return weights
        coordinates, _ = dyadic_coordinates(layer)
        high = np.floor(coordinates / _HALF)
        halves = {"high": high, "low": coordinates - high * _HALF}
        for part, values in halves.items():
            floats = self._initializer(f"{name}.{part}", values.astype(np.float32))
            decoded = self._decode_planes(layer, floats, f"{name}.{part}_weights")
            self._standard("Cast", [decoded], f"{decoded}.wide", to=TensorProto.DOUBLE)
        half = self._initializer("two_to_16", np.array(_HALF))
        scaled = f"{name}.high_weights.scaled"
        self._standard("Mul", [f"{name}.high_weights.wide", half], scaled)
        self._standard("Add", [scaled, f"{name}.low_weights.wide"], weights)
        return weights

    # --- the rest, likewise -----------------------------------------------------------------------

    def _add_to_fixed(self, node: IntegerNode, operation: integer_op.ToFixed) -> int:
        constants = {
            "fixed_scale": np.array(float(1 << operation.fraction_bits)),
            "fixed_lowest": np.array(float(operation.low)),
            "fixed_highest": np.array(float(operation.high)),
        }
        self._add_apot("ToFixed", node, *self._initializers(constants), **asdict(operation))
        return TensorProto.INT32

    def _add_requantizer(self, node: IntegerNode, operation: integer_op.Requantize) -> int:
        axes, shift = _channel_axes(node), operation.shift
        constants = {
            f"{node.name}.multiplier": operation.multiplier.reshape(axes),
            f"{node.name}.offset": (operation.offset + (1 << _RAISED)).reshape(axes),
        }
        inputs, output = [*self._inputs(node), *self._initializers(constants)], node.name
        inputs += [
            self._initializer(f"two_to_{exponent}", _int64(1 << exponent))
            for exponent in (shift, _RAISED - shift)
        ]
        if node.name == self.integer.output:
            self._apot("Requantize", inputs, self._value(output), shift=shift)
            return TensorProto.INT64
        self._apot("Requantize", inputs, f"{output}.wide", shift=shift)
        self._standard("Cast", [f"{output}.wide"], output, to=TensorProto.INT32)
        return TensorProto.INT32

    def _add_thresholds(self, node: IntegerNode, operation: integer_op.Quantize) -> int:
        channels, count = operation.thresholds.shape
        bits, axes = count.bit_length(), _channel_axes(node)
        kind = _numpy_type(self.types[node.inputs[0]])
        # Beyond the last threshold stand ones that no value reaches.
        interval = self._source(node).interval
        largest = int(operation.thresholds.max(initial=0))
        never = max(largest, abs(interval.low), abs(interval.high)) + 1
        filled = np.full((channels, (1 << bits) - 1), never, dtype=np.int64)
        filled[:, :count] = operation.thresholds
        levels = np.zeros(1 << bits, dtype=np.int64)
        levels[: count + 1] = operation.levels
        level_type = narrowest(int(levels.max()), np.uint8)
        if levels.min() < 0:
            level_type = narrowest(int(np.abs(levels).max()), np.int8)
        bases = np.arange(channels, dtype=np.int64) * filled.shape[1]
        constants = {
            f"{node.name}.direction": operation.direction.astype(kind).reshape(axes),
            f"{node.name}.thresholds": filled.astype(kind).reshape(-1),
            f"bases_{channels}_{bits}": bases.reshape(axes),
            f"{node.name}.levels_of_counts": levels.astype(level_type),
        }
        self._add_apot(
            "ThresholdQuantize", node, *self._initializers(constants), body=f"bits{bits}"
        )
        return helper.np_dtype_to_tensor_dtype(np.dtype(level_type))

    def _add_total(self, node: IntegerNode, operation: integer_op.WindowSum) -> int:
        channels, *extent = self._source(node).shape
        if tuple(operation.kernel) == tuple(extent):
            output = self._value(node.name)
            self._standard("Cast", self._inputs(node), f"{output}.wide", to=TensorProto.INT64)
            axes = self._initializer("height_and_width", _int64([2, 3]))
            self._standard("ReduceSum", [f"{output}.wide", axes], output, keepdims=1)
            return TensorProto.INT64
        if math.prod(operation.kernel) > _LARGEST_WINDOW:
            raise IntegerError(
                "The window of an average is too large to be summed exactly.",
                where=node.name,
                expected=f"at most {_LARGEST_WINDOW} places, or all of the image",
                got=str(list(operation.kernel)),
            )
        ones = np.ones((channels, 1, *operation.kernel), dtype=np.float32)
        weights = self._initializer(f"{node.name}.ones", ones)
        attributes = attributes_of(operation)
        self._add_apot("WindowSum", node, weights, group=channels, **attributes)
        return TensorProto.INT64

    def _add_maximum(self, node: IntegerNode, operation: op.MaxPool) -> int:
        self._add_apot("IntegerMaxPool", node, **attributes_of(operation))
        return TensorProto.INT32

    def _add_clamp(self, node: IntegerNode, operation: integer_op.Clamp) -> int:
        kind = self.types[node.inputs[0]]
        (value,), output = self._inputs(node), self._value(node.name)
        limits = {"Max": operation.low, "Min": operation.high}
        operators = [name for name, limit in limits.items() if limit is not None]
        for operator in operators:
            limit = np.array(limits[operator], dtype=_numpy_type(kind))
            result = output if operator == operators[-1] else f"{output}.at_least"
            constant = self._initializer(f"limit_{limit}_{kind}", limit)
            self._standard(operator, [value, constant], result)
            value = result
        return kind

    def _add_same(self, node: IntegerNode, operation: Any) -> int:
        """Add an operation that standard ONNX has for integers."""
        self._add_standard(node.name, operation, self._inputs(node))
        return self.types[node.inputs[0]]


def _channel_axes(node: IntegerNode) -> tuple[int, ...]:
    """Return the shape, without the batch, of one number a channel."""
    return (-1, *[1] * (len(node.shape) - 1))


def _int64(values: int | Sequence[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _numpy_type(kind: int) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(kind))
