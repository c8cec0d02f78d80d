"""The ONNX model of a coded network: one `apot` node per decoded layer, quantizer and scale."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from apot_export.bounds import Proof, prove
from apot_export.codebook import Codebook
from apot_export.network import (
    Add,
    AveragePool,
    Clip,
    CodedLayer,
    CodedNetwork,
    Concat,
    Convolution,
    Flatten,
    FloatLayer,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Node,
    PlaneLayer,
    QuantizeActivation,
    Relu,
    ScaleBias,
    Upsample,
)
from apot_export.onnx_export.functions import (
    DOMAIN,
    DOMAIN_VERSION,
    SPLIT,
    STANDARD_OPSET,
    function,
)
from apot_export.planes import term_values

OPSET = STANDARD_OPSET
IR_VERSION = 10
"""The IR version of opset 21: runtimes of 2024 and later load it."""
INPUT = "images"
OUTPUT = "logits"


def build_model(
    network: CodedNetwork, *, name: str, tool: str, metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """Build the model.

    Args:
        network: The coded network.
        name: Name of the graph.
        tool: Name and version of the producer, separated by a blank.
        metadata: Provenance, written as metadata properties.

    Returns:
        A model with input `images` float32 [batch, C, H, W] and output `logits` float32
        [batch, classes].

    Raises:
        BoundError: A layer's accumulator cannot be proven exact.
    """
    proofs = prove(network)
    graph = _Graph(network, proofs)
    for node in network.nodes:
        graph.add(node)
    producer, _, version = tool.partition(" ")
    model: onnx.ModelProto = helper.make_model(
        graph.proto(name),
        functions=[function(*operator) for operator in sorted(graph.operators)],
        opset_imports=[
            helper.make_opsetid("", STANDARD_OPSET),
            helper.make_opsetid(DOMAIN, DOMAIN_VERSION),
        ],
        ir_version=IR_VERSION,
        producer_name=producer,
        producer_version=version,
    )
    properties = {
        **metadata,
        "largest_accumulator_bound": str(
            max((proof.bound for proof in proofs.values()), default=0)
        ),
    }
    helper.set_model_props(model, properties)
    return model


def serialise(model: onnx.ModelProto) -> bytes:
    """Serialise a model: the same model gives the same bytes."""
    return bytes(model.SerializeToString(deterministic=True))


@dataclass
class _Graph:
    network: CodedNetwork
    proofs: Mapping[str, Proof]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    """Element type of every value that is not float32."""
    operators: set[tuple[str, str]] = field(default_factory=set)
    """Operators in use and their overloads."""

    def add(self, node: Node) -> None:
        operation = node.operation
        inputs = [self._value(name) for name in node.inputs]
        output = self._value(node.name)
        if isinstance(operation, (Convolution, Linear)):
            self._add_weighted(node, operation, inputs, output)
        elif isinstance(operation, QuantizeActivation):
            self._add_quantizer(node, operation, inputs, output)
        elif isinstance(operation, ScaleBias):
            rank = len(self.network.shapes[node.name])
            shape = (-1, *[1] * (rank - 1))
            scale = self._initializer(f"{node.name}.scale", operation.scale.reshape(shape))
            bias = self._initializer(f"{node.name}.bias", operation.bias.reshape(shape))
            self._apot("ScaleBias", [*inputs, scale, bias], output)
        elif isinstance(operation, (Add, Relu)):
            self._standard(type(operation).__name__, inputs, output)
        elif isinstance(operation, Flatten):
            self._standard("Flatten", inputs, output, axis=1)
        elif isinstance(operation, GlobalAveragePool):
            self._standard("GlobalAveragePool", inputs, output)
        elif isinstance(operation, Clip):
            limits = [
                self._initializer(f"clip_{limit:g}", np.array(limit, dtype=np.float32))
                for limit in (operation.minimum, operation.maximum)
            ]
            self._standard("Clip", [*inputs, *limits], output)
        elif isinstance(operation, Concat):
            self._standard("Concat", inputs, output, axis=1)
        elif isinstance(operation, Upsample):
            scales = np.array([1, 1, *operation.scale], dtype=np.float32)
            name = self._initializer(f"{node.name}.scales", scales)
            self._standard(
                "Resize",
                [*inputs, "", name],
                output,
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        elif isinstance(operation, MaxPool):
            self._standard(
                "MaxPool",
                inputs,
                output,
                kernel_shape=list(operation.kernel),
                strides=list(operation.stride),
                pads=list(operation.padding) * 2,
            )
        elif isinstance(operation, AveragePool):
            self._standard(
                "AveragePool",
                inputs,
                output,
                kernel_shape=list(operation.kernel),
                strides=list(operation.stride),
            )

    def proto(self, name: str) -> onnx.GraphProto:
        shapes = self.network.shapes
        image = helper.make_tensor_value_info(
            INPUT, TensorProto.FLOAT, ["batch", *self.network.input_shape]
        )
        logits = helper.make_tensor_value_info(
            OUTPUT, TensorProto.FLOAT, ["batch", *shapes[self.network.output]]
        )
        inner = [
            helper.make_tensor_value_info(
                node.name,
                self.types.get(node.name, TensorProto.FLOAT),
                ["batch", *shapes[node.name]],
            )
            for node in self.network.nodes
            if node.name != self.network.output
        ]
        proto: onnx.GraphProto = helper.make_graph(
            self.nodes,
            name,
            [image],
            [logits],
            initializer=list(self.initializers.values()),
            value_info=inner,
        )
        return proto

    # --- operators --------------------------------------------------------------------------------

    def _add_weighted(
        self, node: Node, operation: Convolution | Linear, inputs: list[str], output: str
    ) -> None:
        layer = self.network.layers[operation.layer]
        attributes: dict[str, Any] = {}
        if isinstance(operation, Convolution):
            attributes = {
                "strides": list(operation.stride),
                "pads": list(operation.padding) * 2,
                "dilations": list(operation.dilation),
                "group": operation.groups,
            }
        kind = "Conv" if isinstance(operation, Convolution) else "Gemm"
        if not isinstance(layer, CodedLayer):
            weights = self._float_weights(layer)
            if kind == "Gemm":
                attributes["transB"] = 1
            self._standard(kind, [*inputs, weights], output, **attributes)
            return
        weights = self._decoded(layer)
        if layer.activation is None:
            self._apot(f"Integer{kind}", [*inputs, weights], output, **attributes)
        else:
            self.types[node.name] = TensorProto.INT32
            split = self.proofs[layer.name].split
            overload = SPLIT if split else ""
            if split:
                attributes |= {"low_values": float(1 << split), "low_scale": 1 << split}
            self._apot(f"Shift{kind}", [*inputs, weights], output, overload, **attributes)

    def _float_weights(self, layer: PlaneLayer | FloatLayer) -> str:
        """Add what makes a layer's float weights: an initializer, or the node that decodes planes."""
        if isinstance(layer, FloatLayer):
            return self._initializer(f"{layer.name}.weight", layer.weight)
        weights = f"{layer.name}.decoded_weights"
        if f"{layer.name}.planes" in self.initializers:
            return weights
        planes = layer.planes
        if planes.terms is None:
            coordinates = self._initializer(f"{layer.name}.coordinates", planes.coordinates)
        else:
            coordinates = f"{layer.name}.coordinates"
            values = term_values(np.arange(256, dtype=np.uint8)).astype(np.float32)
            terms = [
                self._initializer(f"{layer.name}.terms", planes.terms),
                self._initializer("term_values", values),
            ]
            self._apot("SumTerms", terms, coordinates)
        out, channels = layer.shape[:2]
        positions = math.prod(layer.shape[2:])
        grouped = (
            (out, positions, channels) if planes.position_major else (out, channels, positions)
        )
        largest = int(planes.counts.max(initial=0))
        inputs = [
            self._initializer(f"{layer.name}.planes", planes.packed),
            coordinates,
            self._initializer(f"{layer.name}.counts", planes.counts),
            self._initializer(f"places_{largest}", np.arange(largest, dtype=np.int64)),
            self._initializer(f"{layer.name}.grouped_shape", np.array(grouped, dtype=np.int64)),
            self._initializer(f"{layer.name}.shape", np.array(layer.shape, dtype=np.int64)),
        ]
        self._apot(
            "DecodePlanes",
            inputs,
            weights,
            group_size=planes.group_size,
            position_major=int(planes.position_major),
            order=[0, 2, 1] if planes.position_major else [0, 1, 2],
        )
        return weights

    def _decoded(self, layer: CodedLayer) -> str:
        """Add the node that decodes a layer's packed codes, once."""
        weights = f"{layer.name}.levels_of_weights"
        if f"{layer.name}.codes" in self.initializers:
            return weights
        bits = layer.codebook.bits
        windows, shifts, mask = _unpacking_constants(bits)
        packed = np.zeros(-(-layer.packed.size // len(windows)) * len(windows), dtype=np.uint8)
        packed[: layer.packed.size] = layer.packed
        levels = layer.codebook.levels
        level_type = np.int8 if np.abs(levels).max() < 1 << 7 else np.int16
        if np.abs(levels).max() >= 1 << 15:
            level_type = np.int32
        digest = f"{bits}_{_table_digest(layer.codebook):08x}"
        inputs = [
            self._initializer(f"{layer.name}.codes", packed),
            self._initializer(f"unpack{bits}.windows", windows),
            self._initializer(f"unpack{bits}.shifts", shifts),
            self._initializer(f"unpack{bits}.mask", mask),
            self._initializer(f"weight_levels_{digest}", levels.astype(level_type)),
            self._initializer(f"{layer.name}.shape", np.array(layer.shape, dtype=np.int64)),
        ]
        self._apot(
            "DecodeWeights",
            inputs,
            weights,
            signed=int(layer.codebook.signed),
            **_codebook_attributes(layer.codebook),
        )
        return weights

    def _add_quantizer(
        self, node: Node, operation: QuantizeActivation, inputs: list[str], output: str
    ) -> None:
        layer = self.network.layers[operation.layer]
        if not isinstance(layer, CodedLayer) or layer.activation is None:
            raise TypeError(f"{operation.layer} has no input quantizer")
        quantizer = layer.activation
        table = quantizer.table
        level_type = np.uint8 if table.max() < 1 << 8 else np.uint16
        if table.max() >= 1 << 16:
            level_type = np.int32
        self.types[node.name] = helper.np_dtype_to_tensor_dtype(np.dtype(level_type))
        last = quantizer.last_index
        digest = f"{quantizer.codebook.bits}_{_table_digest(quantizer.codebook):08x}_{last}"
        self._apot(
            "QuantizeActivation",
            [
                *inputs,
                self._initializer(f"{node.name}.scale", np.asarray(quantizer.index_scale)),
                self._initializer(f"activation_last_{last}", np.array(last, dtype=np.float32)),
                self._initializer(f"activation_levels_{digest}", table.astype(level_type)),
            ],
            output,
            alpha=float(quantizer.alpha),
            **_codebook_attributes(quantizer.codebook),
        )

    # --- helpers ----------------------------------------------------------------------------------

    def _value(self, name: str) -> str:
        return {self.network.input: INPUT, self.network.output: OUTPUT}.get(name, name)

    def _initializer(self, name: str, array: NDArray[Any]) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
            if array.ndim == 0:
                del self.initializers[name].dims[:]
        return name

    def _apot(
        self, operator: str, inputs: list[str], output: str, overload: str = "", **attributes: Any
    ) -> None:
        self.operators.add((operator, overload))
        node = helper.make_node(
            operator, inputs, [output], name=output, domain=DOMAIN, **attributes
        )
        node.overload = overload
        self.nodes.append(node)

    def _standard(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))


def _table_digest(codebook: Codebook) -> int:
    """Return a stable number that names a codebook in a graph."""
    return zlib.crc32(repr((codebook.tables, codebook.denominator, codebook.signed)).encode())


def _codebook_attributes(codebook: Codebook) -> dict[str, Any]:
    return {
        "bits": codebook.bits,
        "denominator": codebook.denominator,
        "digit_tables": [addend for table in codebook.tables for addend in table],
        "digit_table_sizes": [len(table) for table in codebook.tables],
    }


def _unpacking_constants(
    bits: int,
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]:
    """Return (windows [bytes, codes], shifts [codes], mask) of `DecodeWeights`.

    Codes repeat their position within a byte after `codes` of them. Code j of a group lies in at
    most three neighbouring bytes; column j of `windows` puts these together into one integer.
    """
    codes = 8 // math.gcd(bits, 8)
    windows = np.zeros((bits * codes // 8, codes), dtype=np.uint32)
    shifts = np.zeros(codes, dtype=np.uint32)
    for code in range(codes):
        first, shift = divmod(code * bits, 8)
        shifts[code] = shift
        for position in range((shift + bits + 7) // 8):
            windows[first + position, code] = 1 << (8 * position)
    return windows, shifts, np.array((1 << bits) - 1, dtype=np.uint32)
