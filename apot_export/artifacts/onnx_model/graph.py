"""The ONNX model of a coded network: one `apot` node per decoded layer, quantizer and scale."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from apot_export.artifacts.onnx_model._builder import (
    INPUT,
    GraphBuilder,
    attributes_of,
    narrowest,
    quantizer_attributes,
    table_digest,
    weight_attributes,
)
from apot_export.artifacts.onnx_model.functions import SPLIT
from apot_export.artifacts.onnx_model.inlining import inlined
from apot_export.artifacts.onnx_model.lowering import (
    CUDA,
    PLAIN,
    PORTABLE,
    Body,
    bodies_of,
    require_target,
    shared_images,
    tf32_is_exact,
)
from apot_export.artifacts.onnx_model.opsets import opset_of, require_opset
from apot_export.network import CodedLayer, CodedNetwork, Node
from apot_export.network import operations as op
from apot_export.network.bounds import Proof, prove
from apot_export.network.sizes import of_any_size, values_with_size

_ONE = "one"
"""Name of the value that nodes with `Body.needs_one` read."""


def build_model(
    network: CodedNetwork,
    *,
    name: str,
    tool: str,
    metadata: Mapping[str, str],
    target: str = PORTABLE,
    batch: int = 0,
    keep_functions: bool = False,
    dynamic_size: bool = False,
    opset: int = 0,
) -> onnx.ModelProto:
    """Build the model.

    Args:
        network: The coded network.
        name: Name of the graph.
        tool: Name and version of the producer, separated by a blank.
        metadata: Provenance, written as metadata properties.
        target: The runtime that it is lowered for, one of `TARGETS`. Any other runs it, too.
        batch: Images in every batch of target "plain"; 0 for any number.
        keep_functions: Leave the functions of target "plain" in, and with them the domain `apot`.
        dynamic_size: Leave the height and width of images open.
        opset: Operator set, where an older one than the target's own will do; 0 for that.

    Returns:
        A model with input `images` float32 [batch, C, H, W] and output `logits` float32
        [batch, classes]. Targets other than "portable" are named in its metadata; "cuda" also says
        there whether TF32 rounds none of its factors (`tf32_exact`), "plain" what nodes of other
        targets state (`stated`): the codebook of every layer's weights and levels.

    Raises:
        BoundError: A layer's accumulator cannot be proven exact.
        TargetError: There is no such target, or none with these options, or not of this network.
    """
    options = {"keep_functions": keep_functions, "dynamic_size": dynamic_size}
    require_target(target, batch=batch, opset=opset, **options)
    if dynamic_size:
        network = of_any_size(network)
    proofs = prove(network)
    is_plain = target == PLAIN
    graph = _Graph(
        network=network,
        input=network.input,
        output=network.output,
        further_outputs=network.further_outputs,
        proofs=proofs,
        bodies=bodies_of(network, proofs, target, dynamic_size=dynamic_size),
        opset=opset_of(opset, plain=is_plain),
        batch=batch,
        stores_floats=is_plain,
    )
    graph.add_nodes()
    facts = _facts(graph, target)
    shapes = _open_shapes(network) if dynamic_size else network.shapes
    model = graph.model(name, shapes, tool=tool, metadata={**metadata, **facts})
    if is_plain and not keep_functions:
        model = inlined(model)
    require_opset(model, opset, plain=is_plain)
    return model


def _facts(graph: _Graph, target: str) -> dict[str, str]:
    """Return what the metadata say of a model beside its provenance."""
    largest = max((proof.bound for proof in graph.proofs.values()), default=0)
    facts = {"largest_accumulator_bound": str(largest)}
    facts |= {} if target == PORTABLE else {"target": target}
    if target == CUDA:
        facts["tf32_exact"] = str(tf32_is_exact(graph.network)).lower()
    if target == PLAIN:
        facts["stated"] = json.dumps(graph.stated())
    return facts


def _open_shapes(network: CodedNetwork) -> dict[str, Sequence[int | str | None]]:
    """Return the shape of every value for images of any size."""
    sized = values_with_size(network)
    shapes: dict[str, Sequence[int | str | None]] = {
        name: (shape[0], None, None) if name in sized else shape
        for name, shape in network.shapes.items()
    }
    shapes[network.input] = (network.input_shape[0], "height", "width")
    return shapes


@dataclass(kw_only=True)
class _Graph(GraphBuilder):
    proofs: Mapping[str, Proof]
    bodies: Mapping[str, Body]
    """Bodies other than the usual ones, by node."""

    def add_nodes(self) -> None:
        """Add all nodes of the network, and those that bodies for a target read."""
        if any(body.needs_one for body in self.bodies.values()):
            self._apot("One", [INPUT], _ONE)
        shared = shared_images(self.network, self.bodies)
        for node in self.network.nodes:
            self._add(node)
            if node.name in shared:
                self._keep_channels_last(shared[node.name])

    def stated(self) -> dict[str, dict[str, Any]]:
        """Return what nodes of other targets state, by the value they compute."""
        found: dict[str, dict[str, Any]] = {}
        for layer in self.network.layers.values():
            if isinstance(layer, CodedLayer):
                attributes = {**weight_attributes(layer.codebook), "step": float(layer.step)}
                found[f"{layer.name}.levels_of_weights"] = attributes
        for node in self.network.nodes:
            if isinstance(node.operation, op.QuantizeActivation):
                quantizer = self.network.input_quantizer(node.operation.layer)
                found[node.name] = quantizer_attributes(quantizer)
        return found

    def _keep_channels_last(self, image_shape: NDArray[np.int64]) -> None:
        """Let the last node's value pass through a layout that all its readers share."""
        (value,) = self.nodes[-1].output
        first = f"{value}.channels_first"
        self.nodes[-1].output[0] = first
        shape = self._initializer(f"{value}.image_shape", image_shape)
        self._apot("KeepChannelsLast", [first, shape], value)
        self.nodes[-1].name = f"{value}.channels_last"

    def _add(self, node: Node) -> None:
        operation = node.operation
        inputs = [self._value(name) for name in node.inputs]
        output = self._value(node.name)
        if isinstance(operation, (op.Convolution, op.Linear)):
            self._add_weighted(node, operation, inputs, output)
        elif isinstance(operation, op.QuantizeActivation):
            self._add_quantizer(node, operation, inputs, output)
        elif isinstance(operation, op.ScaleBias):
            rank = len(self.network.shapes[node.name])
            shape = (-1, *[1] * (rank - 1))
            factors = {"scale": operation.scale, "bias": operation.bias}
            constants = {f"{node.name}.{k}": v.reshape(shape) for k, v in factors.items()}
            inputs += self._initializers(constants)
            self._add_apot("ScaleBias", node, inputs, output)
        elif isinstance(operation, op.Clip):
            for limit in (operation.minimum, operation.maximum):
                array = np.array(limit, dtype=np.float32)
                inputs.append(self._initializer(f"clip_{limit:g}", array))
            self._standard("Clip", inputs, output)
        elif isinstance(operation, op.SelfComputing):
            shape = self.network.shapes[node.inputs[0]]
            self._add_general(node.name, operation, inputs, shape)
        else:
            self._add_standard(node.name, operation, inputs)

    # --- operators --------------------------------------------------------------------------------

    def _add_weighted(
        self, node: Node, operation: op.Convolution | op.Linear, inputs: list[str], output: str
    ) -> None:
        layer = self.network.layers[operation.layer]
        attributes = attributes_of(operation)
        kind = "Conv" if isinstance(operation, op.Convolution) else "Gemm"
        if not isinstance(layer, CodedLayer):
            weights = self._float_weights(layer)
            if kind == "Gemm":
                attributes["transB"] = 1
            self._standard(kind, [*inputs, weights], output, **attributes)
            return
        weights = self._decoded(layer)
        if layer.activation is None:
            self._add_apot(f"Integer{kind}", node, [*inputs, weights], output, **attributes)
        else:
            split, chosen = self.proofs[layer.name].split, self.bodies.get(node.name)
            body, inputs = "", [*inputs, weights]
            if chosen is None or not chosen.float_values:
                self.types[node.name] = TensorProto.INT32
            if split and chosen is None:
                body = SPLIT
                inputs.append(self._low_size(split))
            self._add_apot(f"Shift{kind}", node, inputs, output, body, **attributes)

    def _add_quantizer(
        self, node: Node, operation: op.QuantizeActivation, inputs: list[str], output: str
    ) -> None:
        quantizer = self.network.input_quantizer(operation.layer)
        table = quantizer.table
        body = self.bodies.get(node.name)
        first, last = quantizer.first_index, quantizer.last_index
        kinds: tuple[type[np.integer[Any]], ...] = (np.uint8, np.uint16)
        level_type: type[np.number[Any]] = narrowest(
            int(np.abs(table).max()), *((np.int8, np.int16) if first else kinds)
        )
        if body is not None and body.float_values:
            level_type = np.float32
        self.types[node.name] = helper.np_dtype_to_tensor_dtype(np.dtype(level_type))
        digest = f"{quantizer.codebook.bits}_{table_digest(quantizer.codebook):08x}_{last}"
        constants = {
            f"{node.name}.scale": np.asarray(quantizer.index_scale),
            f"activation_last_{last}": np.array(last, dtype=np.float32),
            f"activation_levels_{digest}_{level_type.__name__}": table.astype(level_type),
        }
        self._add_apot(
            "QuantizeActivation",
            node,
            [*inputs, *self._initializers(constants)],
            output,
            **quantizer_attributes(quantizer),
        )

    def _add_apot(
        self,
        operator: str,
        node: Node,
        inputs: list[str],
        output: str,
        body: str = "",
        **attributes: Any,
    ) -> None:
        """Add a node with the body that the target has for it."""
        chosen = self.bodies.get(node.name)
        if chosen is not None:
            body = chosen.name
            attributes |= chosen.attributes
            constants = {f"{node.name}.{name}": array for name, array in chosen.constants.items()}
            inputs = [*inputs, *self._initializers(constants), *[_ONE] * chosen.needs_one]
        self._apot(operator, inputs, output, body, **attributes)
