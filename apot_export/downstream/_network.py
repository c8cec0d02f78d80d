"""The network (4): values, operations, and the checks that need the whole graph."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._budget import NUMBERS, Budget
from ._container import read_container
from ._layers import Floats, Layer, Tensors, float32, read_codebook, read_layer
from ._members import (
    INPUT,
    NETWORK,
    NEW_IN_VERSION_3,
    NODE,
    OPERATIONS,
    members,
    parse,
    require,
)
from ._operations import RUN, Array, Node, numbers_between

_LARGEST_VALUE = 2**31 - 1
_FLOAT32_HOLDS_INTEGERS_BELOW = 2**24
"""So a float32 matrix product of smaller sums is exact, and so is a float64 one of all that int32
holds: whatever the order, all partial sums are integers."""


def load(path: str | Path, max_memory: int | None = None) -> DownstreamNetwork:
    """Read a packed file.

    Args:
        path: The file.
        max_memory: Bytes that it may ask for; None: as many as a file of its size needs (5.1).

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged, of another version, breaks a rule of the format, or asks for more
            memory than it may.
    """
    content = Path(path).read_bytes()
    budget = Budget(len(content), max_memory)
    metadata, tensors = read_container(content, budget)
    version = metadata["format_version"]
    return _read_network(
        parse(metadata["network"], "network"),
        Tensors(tensors, version, budget),
        is_new=version not in {"1", "2"},
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class DownstreamNetwork:
    """A network of a packed file."""

    input: str
    input_shape: tuple[int, int, int]
    """Channels, height and width of an image."""
    output: str
    further_outputs: tuple[str, ...]
    """Values that the network returns beside its output; `trace` has them."""
    layers: Mapping[str, Layer]
    nodes: tuple[Node, ...]
    _last_reader: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._last_reader.update(_last_readers(self.nodes))

    def run(self, images: Floats) -> Floats:
        """Run a batch: float32 [N, C, H, W] to logits float32 [N, classes].

        Raises:
            ValueError: The images have another dtype or shape, or are not finite.
        """
        return self._compute(images, {self.output})[self.output]

    def trace(self, images: Floats) -> dict[str, NDArray[Any]]:
        """Run a batch and return every value by its node's name.

        Levels are int32, accumulators int64, all others float32.
        """
        values = self._compute(images, {node.name for node in self.nodes})
        return {node.name: values[node.name].astype(_result_type(node)) for node in self.nodes}

    def weights(self, layer: str) -> Floats:
        """Return a layer's float32 weights, bit for bit those that were trained."""
        return self.layers[layer].weights()

    def _compute(self, images: Floats, kept: Container[str]) -> dict[str, Array]:
        fine = images.dtype == np.float32 and images.shape[1:] == self.input_shape
        require(fine, f"the images must be float32 [N, {self.input_shape}]")
        require(np.isfinite(images).all(), "the images hold a NaN or an infinity")
        values: dict[str, Array] = {self.input: images}
        with np.errstate(all="ignore"):
            for node in self.nodes:
                read = (values[name] for name in node.inputs)
                values[node.name] = RUN[node.operation](node, *read)
                for name in {node.name, *node.inputs}:
                    if self._last_reader[name] == node.name and name not in kept:
                        del values[name]
        return values


def _result_type(node: Node) -> type[np.generic]:
    types: dict[str, type[np.generic]] = {"float": np.float32, "accumulators": np.int64}
    return types.get(_result_kind(node), np.int32)


# --- Reading the graph (2.4, 4.1) -----------------------------------------------------------------


def _read_network(value: dict[str, Any], tensors: Tensors, *, is_new: bool) -> DownstreamNetwork:
    network = members(value, "network", NETWORK)
    source = members(network["input"], "input", INPUT)
    books = [
        read_codebook(book, f"codebooks[{index}]", tensors.budget)
        for index, book in enumerate(network["codebooks"])
    ]
    layers = {
        name: read_layer(layer, name, books, tensors) for name, layer in network["layers"].items()
    }
    # Rounding in front of a quantizer moves levels, so there float sums have twice the digits.
    precise = any(layer.quantizer for layer in layers.values())
    nodes: list[Node] = []
    for index, entry in enumerate(network["nodes"]):
        before = nodes[-1].name if nodes else source["name"]
        nodes.append(_read_node(entry, f"nodes[{index}]", before, layers, tensors, precise=precise))
    tensors.finish()
    outputs = (network["output"], *network["further_outputs"])
    require(is_new or len(outputs) == 1, "several outputs need version 3")
    scaled = any(layer.scales is not None for layer in layers.values())
    require(is_new or not scaled, "scales of outputs need version 3")
    shapes = _check_graph(source["name"], tuple(source["shape"]), outputs, nodes, is_new=is_new)
    _check_memory(nodes, shapes, {*outputs}, tensors.budget)
    return DownstreamNetwork(
        input=source["name"],
        input_shape=tuple(source["shape"]),
        output=network["output"],
        further_outputs=tuple(network["further_outputs"]),
        layers=layers,
        nodes=tuple(nodes),
    )


def _read_node(
    value: Any,
    where: str,
    before: str,
    layers: Mapping[str, Layer],
    tensors: Tensors,
    *,
    precise: bool,
) -> Node:
    operation = value.get("operation") if type(value) is dict else None
    fine = type(operation) is str and operation in OPERATIONS
    require(fine, f"{where} has no known operation")
    attributes = members(value, where, NODE + OPERATIONS[str(operation)])
    name, inputs = attributes["name"], attributes["inputs"]
    if operation == "Resample":
        for part in ("rows", "columns"):
            attributes[part] = tensors.numbers(f"{where}: {part}", attributes[part])
    if operation == "ScaleBias":
        for part in ("scale", "bias"):
            given = attributes[part]
            if type(given) is list:
                attributes[part] = tensors.numbers(f"{where}: {part}", given)
            else:
                attributes[part] = float32(given)
            require(np.isfinite(attributes[part]).all(), f"{where}: {part} is too large for F32")
    layer, operand = None, np.zeros(0)
    if "layer" in attributes:
        require(attributes["layer"] in layers, f"{where}: no layer {attributes['layer']}")
        layer = layers[attributes["layer"]]
        operand = _operand(str(operation), layer, where, precise=precise)
    return Node(
        name=name,
        operation=str(operation),
        inputs=(before,) if inputs is None else tuple(inputs),
        attributes=attributes,
        layer=layer,
        operand=operand,
    )


def _operand(operation: str, layer: Layer, where: str, *, precise: bool) -> Array:
    """Return what an operation needs of its layer, in the type in which it computes."""
    quantizes = operation == "QuantizeActivation"
    if quantizes:
        require(layer.quantizer is not None, f"{where}: the layer's input is not quantized")
    else:
        axes = 2 if operation == "Linear" else 4
        require(layer.factors.ndim == axes, f"{where}: the layer has {layer.factors.ndim} axes")
    # Nodes with the same layer share one array.
    if quantizes not in layer.operands:
        layer.operands[quantizes] = _made_operand(
            layer, where, quantizes=quantizes, precise=precise
        )
    return layer.operands[quantizes]


def _made_operand(layer: Layer, where: str, *, quantizes: bool, precise: bool) -> Array:
    quantizer, factors = layer.quantizer, layer.factors
    if quantizer is None:
        return factors.astype(np.float64 if precise else np.float32)
    rows = factors.reshape(len(factors), -1)
    positive = rows.clip(min=0).sum(axis=1, dtype=np.int64)
    negative = -rows.clip(max=0).sum(axis=1, dtype=np.int64)
    sums = positive + negative if quantizer.first else np.maximum(positive, negative)
    largest = max(int(quantizer.table.max()), -int(quantizer.table.min()))
    bound = largest * int(sums.max())  # of every partial sum (4.2)
    require(bound <= _LARGEST_VALUE, f"{where}: sums up to {bound} leave int32")
    numbers = quantizer.table if quantizes else factors
    return numbers.astype(np.float32 if bound < _FLOAT32_HOLDS_INTEGERS_BELOW else np.float64)


def _is_new(node: Node, operands: list[Array]) -> bool:
    """Tell whether a node computes what only version 3 has."""
    spreads = node.operation == "Add" and len({value.shape for value in operands}) > 1
    joins_images = node.operation == "Concat" and node.attributes["axis"] != 1
    return spreads or joins_images or node.operation in NEW_IN_VERSION_3


def _check_graph(
    source: str,
    shape: tuple[int, ...],
    outputs: tuple[str, ...],
    nodes: list[Node],
    *,
    is_new: bool,
) -> dict[str, tuple[int, ...]]:
    """Check names, kinds and shapes of all values, by computing with no images; return shapes."""
    kinds = {source: "float"}
    values = {source: np.zeros((0, *shape), np.float32)}
    for node in nodes:
        require(node.name not in kinds, f"two values are called {node.name}")
        missing = [name for name in node.inputs if name not in kinds]
        require(not missing, f"{node.name} reads {missing}, which is not there yet")
        count = {"Add": 2, "Multiply": 2, "Concat": len(node.inputs) or 1}.get(node.operation, 1)
        require(len(node.inputs) == count, f"{node.name} reads {len(node.inputs)} values")
        read = {kinds[name] for name in node.inputs}
        fine = read <= _readable_kinds(node)
        require(fine, f"{node.name} cannot read {' and '.join(sorted(read))}")
        operands = [values[name] for name in node.inputs]
        require(is_new or not _is_new(node, operands), f"{node.name} needs version 3")
        try:
            result = RUN[node.operation](node, *operands)
        except ValueError as error:
            shapes = [value.shape[1:] for value in operands]
            raise ValueError(f"{node.name} cannot read {shapes}: {error}") from error
        fine = 0 < math.prod(result.shape[1:]) <= _LARGEST_VALUE
        require(fine, f"{node.name} has the shape {result.shape[1:]}")
        kinds[node.name], values[node.name] = _result_kind(node), result
    for output in outputs:
        require(kinds.get(output) == "float", f"the output {output} is no value, or not of floats")
    return {name: value.shape[1:] for name, value in values.items()}


def _last_readers(nodes: Sequence[Node]) -> dict[str, str]:
    """Return the node after which each value is not needed: its own where none reads it."""
    own = {node.name: node.name for node in nodes}
    return {**own, **{name: node.name for node in nodes for name in node.inputs}}


def _check_memory(
    nodes: Sequence[Node], shapes: Mapping[str, tuple[int, ...]], outputs: set[str], budget: Budget
) -> None:
    """Check how many numbers of an image there are at once (5.1)."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    last = _last_readers(nodes)
    held = sum(size for name, size in sizes.items() if name not in {node.name for node in nodes})
    for node in nodes:
        held += sizes[node.name]
        further = numbers_between(node, shapes[node.inputs[0]], shapes[node.name])
        budget.check(NUMBERS, held + further, node.name)
        done = {name for name in (node.name, *node.inputs) if last[name] == node.name}
        held -= sum(sizes[name] for name in done - outputs)


def _levels(node: Node) -> str:
    return f"levels of {node.attributes['layer']}"


def _readable_kinds(node: Node) -> set[str]:
    if node.operation == "ScaleBias":
        return {"float", "accumulators"}
    multiplies = node.operation in {"Convolution", "Linear"}
    return {_levels(node) if multiplies and node.quantizer else "float"}


def _result_kind(node: Node) -> str:
    if node.operation == "QuantizeActivation":
        return _levels(node)
    return "accumulators" if node.quantizer else "float"
