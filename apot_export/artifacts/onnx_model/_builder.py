"""What all graphs are built with: initializers, operators and their functions, decoded weights."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from apot_export.artifacts.onnx_model._general import operators_of
from apot_export.artifacts.onnx_model.functions import DOMAIN, OPSET, function, function_name
from apot_export.network import (
    ActivationQuantizer,
    CodedLayer,
    CodedNetwork,
    FloatLayer,
    PlaneLayer,
    Shape,
)
from apot_export.network import operations as op
from apot_export.network.codebook import Codebook
from apot_export.network.planes import term_values

DOMAIN_VERSION = 1
IR_VERSION = 8
"""The first one with functions."""
INPUT = "images"
OUTPUT = "logits"


def serialise(model: onnx.ModelProto) -> bytes:
    """Serialise a model: the same model gives the same bytes."""
    return bytes(model.SerializeToString(deterministic=True))


_UPSAMPLING = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}
_ATTRIBUTES = {
    "kernel": "kernel_shape",
    "stride": "strides",
    "padding": "pads",
    "dilation": "dilations",
    "groups": "group",
    "axis": "axis",
}


def attributes_of(operation: object) -> dict[str, Any]:
    """Return the attributes of an operation as ONNX names them."""
    fields = vars(operation).items()
    found = {_ATTRIBUTES[name]: value for name, value in fields if name in _ATTRIBUTES}
    return {name: value * 2 if name == "pads" else value for name, value in found.items()}


@dataclass(kw_only=True)
class GraphBuilder:
    """Nodes and initializers so far; an initializer of one name is added once."""

    network: CodedNetwork
    """Whose weights are decoded."""
    input: str
    """What the network calls its images, which the graph calls `INPUT`."""
    output: str
    """What the network calls its logits, which the graph calls `OUTPUT`."""
    further_outputs: tuple[str, ...] = ()
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    """Element type of every value that is not float32, by its name in the network."""
    functions: set[str] = field(default_factory=set)
    """Names of those in use."""
    opset: int = OPSET
    batch: int = 0
    """Images in every batch; 0 for any number."""
    stores_floats: bool = False
    """Whether weights are stored as float32, not as codes."""

    def model(
        self,
        name: str,
        shapes: Mapping[str, Sequence[int | str | None]],
        *,
        tool: str,
        metadata: Mapping[str, str],
    ) -> onnx.ModelProto:
        """Return the model: one image tensor in, logits out, every value typed and shaped.

        Args:
            name: Of the graph.
            shapes: Of one image and of every node's value, by their names in the network; names or
                None stand for sizes that are open.
            tool: Name and version of the producer, separated by a blank.
            metadata: Model properties.
        """
        values = {
            value: helper.make_tensor_value_info(
                self._value(value),
                self.types.get(value, TensorProto.FLOAT),
                [self.batch or "batch", *shape],
            )
            for value, shape in shapes.items()
        }
        images = values.pop(self.input)
        results = [values.pop(name) for name in (self.output, *self.further_outputs)]
        graph = helper.make_graph(
            self.nodes,
            name,
            [images],
            results,
            initializer=list(self.initializers.values()),
            value_info=list(values.values()),
        )
        producer, _, version = tool.partition(" ")
        standard = helper.make_opsetid("", self.opset)
        model: onnx.ModelProto = helper.make_model(
            graph,
            functions=[function(name, self.opset) for name in sorted(self.functions)],
            opset_imports=[
                standard,
                *[helper.make_opsetid(DOMAIN, DOMAIN_VERSION)] * bool(self.functions),
            ],
            ir_version=IR_VERSION if self.functions else helper.find_min_ir_version_for([standard]),
            producer_name=producer,
            producer_version=version,
        )
        helper.set_model_props(model, dict(metadata))
        return model

    def _value(self, name: str) -> str:
        """Return what the graph calls a value of the network."""
        return {self.input: INPUT, self.output: OUTPUT}.get(name, name)

    def _add_standard(self, name: str, operation: object, inputs: list[str]) -> None:
        """Add a node of the network that one standard operator computes."""
        output = self._value(name)
        if isinstance(operation, op.Upsample):
            scale = np.array([1, 1, *operation.scale], dtype=np.float32)
            scales = self._initializer(f"{name}.scales", scale)
            self._standard("Resize", [*inputs, "", scales], output, **_UPSAMPLING)
            return
        attributes = {"axis": 1} if isinstance(operation, op.Flatten) else attributes_of(operation)
        self._standard(type(operation).__name__, inputs, output, **attributes)

    def _add_general(
        self, name: str, operation: op.SelfComputing, inputs: list[str], shape: Shape
    ) -> None:
        """Add the nodes of an operation that computes itself, on an image of a shape."""
        operators = operators_of(operation, shape, self.opset)
        output = self._value(name)
        for number, one in enumerate(operators, start=1):
            made = output if number == len(operators) else f"{output}.part{number}"
            read = self._initializers({f"{name}.{k}": v for k, v in one.constants.items()})
            inputs = [*read, *inputs] if one.constant_first else [*inputs, *read]
            self._standard(one.kind, inputs, made, **one.attributes)
            inputs = [made]

    def _float_weights(self, layer: PlaneLayer | FloatLayer) -> str:
        """Add a layer's float weights: an initializer, or the node that decodes planes."""
        if isinstance(layer, FloatLayer):
            return self._initializer(f"{layer.name}.weight", layer.weights())
        weights = f"{layer.name}.decoded_weights"
        if self.stores_floats:
            return self._initializer(weights, layer.weights())
        if f"{layer.name}.planes" in self.initializers:
            return weights
        planes = layer.planes
        if planes.terms is None:
            coordinates = self._initializer(f"{layer.name}.coordinates", planes.coordinates)
        else:
            coordinates = f"{layer.name}.coordinates"
            values = term_values(np.arange(256, dtype=np.uint8))
            terms = {f"{layer.name}.terms": planes.terms, "term_values": values}
            self._apot("SumTerms", self._initializers(terms), coordinates)
        return self._decode_planes(layer, coordinates, weights)

    def _decode_planes(self, layer: PlaneLayer, coordinates: str, weights: str) -> str:
        planes = layer.planes
        out, channels = layer.shape[:2]
        positions = math.prod(layer.shape[2:])
        grouped = (
            (out, positions, channels) if planes.position_major else (out, channels, positions)
        )
        largest = int(planes.counts.max(initial=0))
        constants = {
            f"{layer.name}.counts": planes.counts,
            f"places_{largest}": np.arange(largest, dtype=np.int64),
            f"group_size_{planes.group_size}": np.array([planes.group_size], dtype=np.int64),
            f"{layer.name}.grouped_shape": np.array(grouped, dtype=np.int64),
            f"{layer.name}.shape": np.array(layer.shape, dtype=np.int64),
        }
        packed = self._initializer(f"{layer.name}.planes", planes.packed)
        self._apot(
            "DecodePlanes",
            [packed, coordinates, *self._initializers(constants)],
            weights,
            group_size=planes.group_size,
            position_major=int(planes.position_major),
            order=[0, 2, 1] if planes.position_major else [0, 1, 2],
        )
        return weights

    def _decoded(self, layer: CodedLayer) -> str:
        """Add a layer's levels: float32, or the node that decodes packed codes, once."""
        weights = f"{layer.name}.levels_of_weights"
        if self.stores_floats:
            return self._initializer(weights, layer.levels().astype(np.float32))
        if f"{layer.name}.codes" in self.initializers:
            return weights
        bits = layer.codebook.bits
        windows, shifts, mask = _unpacking_constants(bits)
        packed = np.zeros(-(-layer.packed.size // len(windows)) * len(windows), dtype=np.uint8)
        packed[: layer.packed.size] = layer.packed
        levels = layer.codebook.levels
        level_type = narrowest(int(np.abs(levels).max()), np.int8, np.int16)
        digest = f"{bits}_{table_digest(layer.codebook):08x}"
        constants = {
            f"{layer.name}.codes": packed,
            f"unpack{bits}.windows": windows,
            f"unpack{bits}.shifts": shifts,
            f"unpack{bits}.mask": mask,
            f"weight_levels_{digest}": levels.astype(level_type),
            f"{layer.name}.shape": np.array(layer.shape, dtype=np.int64),
        }
        self._apot(
            "DecodeWeights",
            self._initializers(constants),
            weights,
            **weight_attributes(layer.codebook),
        )
        return weights

    def _low_size(self, bits: int) -> str:
        """Add what the bodies `SPLIT` divide levels by."""
        return self._initializer(f"low_size_{bits}", np.array(1 << bits, dtype=np.float32))

    # --- nodes ------------------------------------------------------------------------------------

    def _initializer(self, name: str, array: NDArray[Any]) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
            if array.ndim == 0:
                del self.initializers[name].dims[:]
        return name

    def _initializers(self, arrays: Mapping[str, Any]) -> list[str]:
        return [self._initializer(name, array) for name, array in arrays.items()]

    def _apot(
        self, operator: str, inputs: list[str], output: str, body: str = "", **attributes: Any
    ) -> None:
        name = function_name(operator, body)
        self.functions.add(name)
        self.nodes.append(
            helper.make_node(name, inputs, [output], name=output, domain=DOMAIN, **attributes)
        )

    def _standard(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))


def narrowest(largest: int, *kinds: type[np.integer[Any]]) -> type[np.integer[Any]]:
    """Return the first type that holds a level, int32 if none of them does."""
    return next((kind for kind in kinds if largest <= np.iinfo(kind).max), np.int32)


def table_digest(codebook: Codebook) -> int:
    """Return a stable number that names a codebook in a graph."""
    return zlib.crc32(repr((codebook.tables, codebook.denominator, codebook.signed)).encode())


def weight_attributes(codebook: Codebook) -> dict[str, Any]:
    return {"signed": int(codebook.signed), **codebook_attributes(codebook)}


def quantizer_attributes(quantizer: ActivationQuantizer) -> dict[str, Any]:
    return {"alpha": float(quantizer.alpha), **codebook_attributes(quantizer.codebook)}


def codebook_attributes(codebook: Codebook) -> dict[str, Any]:
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
