"""The ONNX model of an integer network: integers from the fixed-point image to the logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from apot_export.artifacts.onnx_model._builder import INPUT, OUTPUT, GraphBuilder, model_of
from apot_export.artifacts.onnx_model.functions import SPLIT, function
from apot_export.artifacts.onnx_model.integer_functions import QUANTIZE, integer_function
from apot_export.errors import IntegerError
from apot_export.integer import IntegerNetwork
from apot_export.integer.network import (
    Clamp,
    IntegerNode,
    Quantize,
    Requantize,
    ToFixed,
    WindowSum,
)
from apot_export.integer.weights import dyadic_coordinates
from apot_export.network import (
    Add,
    CodedLayer,
    CodedNetwork,
    Concat,
    Convolution,
    Flatten,
    Linear,
    MaxPool,
    PlaneLayer,
    Upsample,
)
from apot_export.network.bounds import FLOAT32_EXACT, split_bits

_RAISED = 62
"""Bits of what makes every product positive before it is divided."""
_LARGEST_WINDOW = 256
_HALF = 2.0**16
_STANDARD = ("ShiftConv", "ShiftGemm", "DecodeWeights", "DecodePlanes")
"""Operators that integer networks share with the others."""


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
    graph = _IntegerGraph(network=coded, integer=network)
    for node in network.nodes:
        graph.add_integer(node)
    facts = {
        "logit_scale": str(network.logit_scale),
        "fraction_bits": str(network.fraction_bits),
        "input_bits": str(network.input_bits),
    }
    functions = [
        function(operator, overload)
        if operator in _STANDARD
        else integer_function(operator, overload)
        for operator, overload in sorted(graph.operators)
    ]
    shapes = {node.name: node.shape for node in network.nodes}
    image_type = TensorProto.FLOAT if network.pixels is None else TensorProto.UINT8
    proto = graph.graph_of(name, network.input_shape, shapes, network.output, image_type)
    return model_of(proto, functions, tool=tool, metadata={**metadata, **facts})


@dataclass(kw_only=True)
class _IntegerGraph(GraphBuilder):
    integer: IntegerNetwork

    def add_integer(self, node: IntegerNode) -> None:
        """Add what an integer node does."""
        inputs = [self._integer_value(name) for name in node.inputs]
        output = self._integer_value(node.name)
        adders: dict[type[Any], Callable[[Any, IntegerNode, list[str], str], None]] = {
            ToFixed: self._add_to_fixed,
            Convolution: self._add_convolution,
            Linear: self._add_product,
            Requantize: self._add_requantizer,
            Quantize: self._add_thresholds,
            WindowSum: self._add_total,
            MaxPool: self._add_maximum,
            Clamp: self._add_clamp,
        }
        adder = adders.get(type(node.operation), self._add_same)
        adder(node.operation, node, inputs, output)

    def _integer_value(self, name: str) -> str:
        return {self.integer.input: INPUT, self.integer.output: OUTPUT}.get(name, name)

    def _shape_of(self, name: str) -> tuple[int, ...]:
        return next(node.shape for node in self.integer.nodes if node.name == name)

    # --- weighted ---------------------------------------------------------------------------------

    def _add_convolution(
        self, operation: Convolution, node: IntegerNode, inputs: list[str], output: str
    ) -> None:
        layer = self.integer.layers[operation.layer]
        geometry: dict[str, Any] = {
            "strides": list(operation.stride),
            "pads": list(operation.padding) * 2,
            "dilations": list(operation.dilation),
        }
        if layer.reads_levels:
            self._add_levels("ShiftConv", node, inputs, output, group=operation.groups, **geometry)
            return
        out, group_inputs, *kernel = layer.weights.shape
        taps, groups = math.prod(kernel), operation.groups
        eye = np.eye(taps, dtype=np.float32).reshape(taps, 1, *kernel)
        height, width = node.shape[1:]
        grouped = (0, groups, group_inputs * taps, height * width)
        shapes = {
            f"{node.name}.patches": grouped,
            f"{node.name}.rows": (groups, out // groups, group_inputs * taps),
            f"{node.name}.flat": (0, out, height * width),
            f"{node.name}.image": (0, out, height, width),
        }
        self.types[node.name] = TensorProto.INT64
        self._apot(
            "FixedConv",
            [
                *inputs,
                self._integer_weights(operation.layer),
                self._initializer(f"one_hot_{kernel[0]}x{kernel[1]}", eye),
                self._initializer(
                    f"{node.name}.repeats",
                    np.array([groups * group_inputs, 1, 1, 1], dtype=np.int64),
                ),
                *(
                    self._initializer(name, np.array(shape, dtype=np.int64))
                    for name, shape in shapes.items()
                ),
            ],
            output,
            group=groups * group_inputs,
            kernel_shape=list(kernel),
            **geometry,
        )

    def _add_product(
        self, operation: Linear, node: IntegerNode, inputs: list[str], output: str
    ) -> None:
        if self.integer.layers[operation.layer].reads_levels:
            self._add_levels("ShiftGemm", node, inputs, output)
            return
        self.types[node.name] = TensorProto.INT64
        self._apot("FixedGemm", [*inputs, self._integer_weights(operation.layer)], output)

    def _add_levels(
        self, operator: str, node: IntegerNode, inputs: list[str], output: str, **attributes: Any
    ) -> None:
        """Add sums of products of levels, which float32 holds whole or in two parts."""
        operation = node.operation
        if not isinstance(operation, (Convolution, Linear)):
            raise TypeError(f"{node.name} has no weights")
        layer = self.network.layers[operation.layer]
        if not isinstance(layer, CodedLayer) or layer.activation is None:
            raise TypeError(f"{operation.layer} has no input quantizer")
        bound = self.integer.layers[operation.layer].bound
        split = 0
        if bound >= FLOAT32_EXACT:
            split = split_bits(layer, bound)
            attributes |= {"low_values": float(1 << split), "low_scale": 1 << split}
        self.types[node.name] = TensorProto.INT32
        weights = self._decoded(layer)
        self._apot(operator, [*inputs, weights], output, SPLIT if split else "", **attributes)

    def _integer_weights(self, name: str) -> str:
        layer = self.network.layers[name]
        if isinstance(layer, CodedLayer):
            return self._decoded(layer)
        if not isinstance(layer, PlaneLayer):
            raise TypeError(f"{name} has float weights")
        return self._plane_integers(layer)

    def _plane_integers(self, layer: PlaneLayer) -> str:
        """Decode sign vectors twice, with either half of their coordinates: float32 holds both."""
        weights = f"{layer.name}.integers"
        if f"{layer.name}.low" in self.initializers:
            return weights
        coordinates, _ = dyadic_coordinates(layer)
        high = np.floor(coordinates / _HALF)
        halves = {"high": high, "low": coordinates - high * _HALF}
        for part, values in halves.items():
            floats = self._initializer(f"{layer.name}.{part}", values.astype(np.float32))
            decoded = self._decode_planes(layer, floats, f"{layer.name}.{part}_weights")
            self._standard("Cast", [decoded], f"{decoded}.wide", to=TensorProto.DOUBLE)
        half = self._initializer("two_to_16", np.array(_HALF))
        scaled = f"{layer.name}.high_weights.scaled"
        self._standard("Mul", [f"{layer.name}.high_weights.wide", half], scaled)
        self._standard("Add", [scaled, f"{layer.name}.low_weights.wide"], weights)
        return weights

    # --- the rest ---------------------------------------------------------------------------------

    def _add_to_fixed(
        self, operation: ToFixed, node: IntegerNode, inputs: list[str], output: str
    ) -> None:
        self.types[node.name] = TensorProto.INT32
        constants = {
            "fixed_scale": float(1 << operation.fraction_bits),
            "fixed_lowest": float(operation.low),
            "fixed_highest": float(operation.high),
        }
        self._apot(
            "ToFixed",
            [*inputs, *(self._initializer(n, np.array(v)) for n, v in constants.items())],
            output,
            fraction_bits=operation.fraction_bits,
            low=operation.low,
            high=operation.high,
        )

    def _add_requantizer(
        self, operation: Requantize, node: IntegerNode, inputs: list[str], output: str
    ) -> None:
        axes = (-1, *[1] * (len(node.shape) - 1))
        raised = operation.offset + (1 << _RAISED)
        wide = f"{output}.wide" if node.name != self.integer.output else output
        self._apot(
            "Requantize",
            [
                *inputs,
                self._initializer(f"{node.name}.multiplier", operation.multiplier.reshape(axes)),
                self._initializer(f"{node.name}.offset", raised.reshape(axes)),
                self._initializer(f"two_to_{operation.shift}", _power(operation.shift)),
                self._initializer(
                    f"two_to_{_RAISED - operation.shift}", _power(_RAISED - operation.shift)
                ),
            ],
            wide,
            shift=operation.shift,
        )
        self.types[node.name] = TensorProto.INT64
        if wide != output:
            self.types[node.name] = TensorProto.INT32
            self._standard("Cast", [wide], output, to=TensorProto.INT32)

    def _add_thresholds(
        self, operation: Quantize, node: IntegerNode, inputs: list[str], output: str
    ) -> None:
        count = operation.thresholds.shape[1]
        bits = count.bit_length()
        channels = operation.thresholds.shape[0]
        kind = _numpy_type(self.types[node.inputs[0]])
        axes = (-1, *[1] * (len(node.shape) - 1))
        # Beyond the last threshold stand ones that no value reaches.
        never = int(operation.thresholds.max(initial=0)) + 1
        interval = next(n.interval for n in self.integer.nodes if n.name == node.inputs[0])
        never = max(never, abs(interval.low) + 1, abs(interval.high) + 1)
        filled = np.full((channels, (1 << bits) - 1), never, dtype=np.int64)
        filled[:, :count] = operation.thresholds
        levels = np.zeros(1 << bits, dtype=np.int64)
        levels[: count + 1] = operation.levels
        small = int(levels.max()) < 1 << 8
        self.types[node.name] = TensorProto.UINT8 if small else TensorProto.INT32
        bases = np.arange(channels, dtype=np.int64) * filled.shape[1]
        self._apot(
            QUANTIZE,
            [
                *inputs,
                self._initializer(
                    f"{node.name}.direction", operation.direction.astype(kind).reshape(axes)
                ),
                self._initializer(f"{node.name}.thresholds", filled.astype(kind).reshape(-1)),
                self._initializer(f"bases_{channels}_{bits}", bases.reshape(axes)),
                self._initializer(
                    f"{node.name}.levels_of_counts",
                    levels.astype(np.uint8 if small else np.int32),
                ),
            ],
            output,
            f"bits{bits}",
        )

    def _add_total(
        self, operation: WindowSum, node: IntegerNode, inputs: list[str], output: str
    ) -> None:
        self.types[node.name] = TensorProto.INT64
        channels, *extent = self._shape_of(node.inputs[0])
        if tuple(operation.kernel) == tuple(extent):
            wide = f"{output}.wide"
            self._standard("Cast", inputs, wide, to=TensorProto.INT64)
            axes = self._initializer("height_and_width", np.array([2, 3], dtype=np.int64))
            self._standard("ReduceSum", [wide, axes], output, keepdims=1)
            return
        if math.prod(operation.kernel) > _LARGEST_WINDOW:
            raise IntegerError(
                "The window of an average is too large to be summed exactly.",
                where=node.name,
                expected=f"at most {_LARGEST_WINDOW} places, or all of the image",
                got=str(list(operation.kernel)),
            )
        ones = np.ones((channels, 1, *operation.kernel), dtype=np.float32)
        self._apot(
            "WindowSum",
            [*inputs, self._initializer(f"{node.name}.ones", ones)],
            output,
            kernel_shape=list(operation.kernel),
            strides=list(operation.stride),
            group=channels,
        )

    def _add_maximum(
        self, operation: MaxPool, node: IntegerNode, inputs: list[str], output: str
    ) -> None:
        self.types[node.name] = TensorProto.INT32
        self._apot(
            "IntegerMaxPool",
            inputs,
            output,
            kernel_shape=list(operation.kernel),
            strides=list(operation.stride),
            pads=list(operation.padding) * 2,
        )

    def _add_clamp(
        self, operation: Clamp, node: IntegerNode, inputs: list[str], output: str
    ) -> None:
        kind = self.types[node.inputs[0]]
        self.types[node.name] = kind
        value, both = inputs[0], operation.low is not None and operation.high is not None
        for limit, operator in ((operation.low, "Max"), (operation.high, "Min")):
            if limit is None:
                continue
            result = f"{output}.raised" if both and operator == "Max" else output
            constant = self._initializer(
                f"limit_{limit}_{kind}", np.array(limit, dtype=_numpy_type(kind))
            )
            self._standard(operator, [value, constant], result)
            value = result

    def _add_same(self, operation: Any, node: IntegerNode, inputs: list[str], output: str) -> None:
        """Add an operation that standard ONNX has for integers."""
        self.types[node.name] = self.types[node.inputs[0]]
        if isinstance(operation, Add):
            self._standard("Add", inputs, output)
        elif isinstance(operation, Concat):
            self._standard("Concat", inputs, output, axis=1)
        elif isinstance(operation, Flatten):
            self._standard("Flatten", inputs, output, axis=1)
        elif isinstance(operation, Upsample):
            self._add_upsampling(f"{node.name}.scales", operation.scale, inputs, output)
        else:
            raise TypeError(f"no ONNX form of {type(operation).__name__}")


def _power(exponent: int) -> NDArray[np.int64]:
    return np.array(1 << exponent, dtype=np.int64)


def _numpy_type(kind: int) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(kind))
