"""The network (4): values, operations, and the checks that need the whole graph."""

from __future__ import annotations

import platform
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ._container import parse, read_container, require
from ._layers import Floats, Layer, Quantizer, Tensors, read_codebook, read_layer
from ._members import INPUT, NETWORK, NODE, OPERATIONS, members

_LARGEST_VALUE = 2**31 - 1
_FLOAT32_HOLDS_INTEGERS_BELOW = 2**24
_ADDS_PRODUCTS = platform.machine().lower() in {"x86_64", "amd64"}
"""Whether oneDNN's float32 convolutions only add products. Elsewhere it may choose Winograd's
algorithm, whose fractions spoil exact integers. There is none for float64."""


def load(path: str | Path) -> DownstreamNetwork:
    """Read a packed file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged, of another version, or breaks a rule of the format.
    """
    metadata, tensors = read_container(Path(path).read_bytes())
    return _read_network(parse(metadata["network"], "network"), Tensors(tensors))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Node:
    name: str
    operation: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    layer: Layer | None = None
    operand: Tensor | None = None
    """The weights to multiply with, or the quantizer's table."""

    @property
    def quantizer(self) -> Quantizer | None:
        """What makes levels of the layer's input; None where that stays float."""
        return None if self.layer is None else self.layer.quantizer


@dataclass(frozen=True, kw_only=True, eq=False)
class DownstreamNetwork:
    """A network of a packed file, in PyTorch on the CPU."""

    input: str
    input_shape: tuple[int, int, int]
    """Channels, height and width of an image."""
    output: str
    layers: Mapping[str, Layer]
    nodes: tuple[_Node, ...]
    _last_reader: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.nodes:
            self._last_reader.update(dict.fromkeys(node.inputs, node.name))

    def run(self, images: Floats) -> Floats:
        """Run a batch: float32 [N, C, H, W] to logits float32 [N, classes].

        Raises:
            ValueError: The images have another dtype or shape, or are not finite.
        """
        return self._compute(images, {self.output})[self.output].float().numpy()

    def trace(self, images: Floats) -> dict[str, NDArray[Any]]:
        """Run a batch and return every value by its node's name.

        Levels are int32, accumulators int64, all others float32.
        """
        everything = self._compute(images, {node.name for node in self.nodes})
        types = {node.name: _result_type(node) for node in self.nodes}
        return {name: everything[name].to(kind).numpy() for name, kind in types.items()}

    def weights(self, layer: str) -> Floats:
        """Return a layer's float32 weights, bit for bit those that were trained."""
        return self.layers[layer].weights()

    def _compute(self, images: Floats, kept: Container[str]) -> dict[str, Tensor]:
        fine = images.dtype == np.float32 and images.shape[1:] == self.input_shape
        require(fine, f"the images must be float32 [N, {self.input_shape}]")
        require(np.isfinite(images).all(), "the images hold a NaN or an infinity")
        values = {self.input: torch.from_numpy(np.ascontiguousarray(images))}
        # NNPACK, which PyTorch may take where oneDNN is switched off, uses Winograd's algorithm.
        with torch.inference_mode(), torch.backends.nnpack.flags(enabled=False):
            for node in self.nodes:
                values[node.name] = _RUN[node.operation](node, *map(values.get, node.inputs))
                for name in set(node.inputs):
                    if self._last_reader[name] == node.name and name not in kept:
                        del values[name]
        return values


def _result_type(node: _Node) -> torch.dtype:
    kind = _result_kind(node)
    return {"float": torch.float32, "accumulators": torch.int64}.get(kind, torch.int32)


# --- Reading the graph (2.4, 4.1) -----------------------------------------------------------------


def _read_network(value: dict[str, Any], tensors: Tensors) -> DownstreamNetwork:
    network = members(value, "network", NETWORK)
    source = members(network["input"], "input", INPUT)
    books = [
        read_codebook(book, f"codebooks[{index}]")
        for index, book in enumerate(network["codebooks"])
    ]
    layers = {
        name: read_layer(layer, name, books, tensors) for name, layer in network["layers"].items()
    }
    # Rounding in front of a quantizer moves levels, so there float sums have twice the digits.
    precise = any(layer.quantizer for layer in layers.values())
    nodes: list[_Node] = []
    for index, entry in enumerate(network["nodes"]):
        before = nodes[-1].name if nodes else source["name"]
        nodes.append(_read_node(entry, f"nodes[{index}]", before, layers, tensors, precise=precise))
    tensors.finish()
    _check_graph(source["name"], tuple(source["shape"]), network["output"], nodes)
    return DownstreamNetwork(
        input=source["name"],
        input_shape=tuple(source["shape"]),
        output=network["output"],
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
) -> _Node:
    operation = value.get("operation") if type(value) is dict else None
    fine = type(operation) is str and operation in OPERATIONS
    require(fine, f"{where} has no known operation")
    attributes = members(value, where, NODE + OPERATIONS[str(operation)])
    name, inputs = attributes["name"], attributes["inputs"]
    if operation == "ScaleBias":
        for part in ("scale", "bias"):
            given = attributes[part]
            numbers = tensors.numbers(given[0]) if type(given) is list else given
            attributes[part] = torch.tensor(numbers, dtype=torch.float64).float()
            fine = bool(attributes[part].isfinite().all())
            require(fine, f"{where}: {part} is too large for F32")
    layer = None
    if "layer" in attributes:
        require(attributes["layer"] in layers, f"{where}: no layer {attributes['layer']}")
        layer = layers[attributes["layer"]]
    return _Node(
        name=name,
        operation=str(operation),
        inputs=(before,) if inputs is None else tuple(inputs),
        attributes=attributes,
        layer=layer,
        operand=None if layer is None else _operand(str(operation), layer, where, precise=precise),
    )


def _operand(operation: str, layer: Layer, where: str, *, precise: bool) -> Tensor:
    """Return what an operation needs of its layer, in the type in which it computes."""
    quantizer, factors = layer.quantizer, layer.factors
    if operation == "QuantizeActivation":
        require(quantizer is not None, f"{where}: the layer's input is not quantized")
    else:
        axes = 2 if operation == "Linear" else 4
        require(factors.ndim == axes, f"{where}: the layer has {factors.ndim} axes")
    if quantizer is None:
        return torch.from_numpy(factors).to(torch.float64 if precise else torch.float32)
    rows = factors.reshape(len(factors), -1).astype(np.int64)
    sums = np.maximum(rows.clip(min=0).sum(axis=1), -rows.clip(max=0).sum(axis=1))
    bound = int(quantizer.table.max()) * int(sums.max())  # of every partial sum (4.2)
    require(bound <= _LARGEST_VALUE, f"{where}: sums up to {bound} leave int32")
    narrow = bound < _FLOAT32_HOLDS_INTEGERS_BELOW and _ADDS_PRODUCTS
    numbers = quantizer.table if operation == "QuantizeActivation" else factors
    return torch.from_numpy(numbers).to(torch.float32 if narrow else torch.float64)


def _check_graph(source: str, shape: tuple[int, ...], output: str, nodes: list[_Node]) -> None:
    """Check the names, kinds and shapes of all values, by computing with shapes alone."""
    kinds = {source: "float"}
    values = {source: torch.empty(1, *shape, device="meta")}
    for node in nodes:
        require(node.name not in kinds, f"two values are called {node.name}")
        missing = [name for name in node.inputs if name not in kinds]
        require(not missing, f"{node.name} reads {missing}, which is not there yet")
        count = {"Add": 2, "Concat": len(node.inputs) or 1}.get(node.operation, 1)
        require(len(node.inputs) == count, f"{node.name} reads {len(node.inputs)} values")
        read = {kinds[name] for name in node.inputs}
        fine = read <= _readable_kinds(node)
        require(fine, f"{node.name} cannot read {' and '.join(sorted(read))}")
        try:
            result = _RUN[node.operation](node, *(values[name] for name in node.inputs))
        except (RuntimeError, IndexError, TypeError, OverflowError, ValueError) as error:
            shapes = [tuple(values[name].shape[1:]) for name in node.inputs]
            raise ValueError(f"{node.name} cannot read {shapes}: {error}") from error
        fine = 0 < result.numel() <= _LARGEST_VALUE
        require(fine, f"{node.name} has the shape {tuple(result.shape[1:])}")
        kinds[node.name], values[node.name] = _result_kind(node), result
    require(kinds.get(output) == "float", f"the output {output} is no value, or not of floats")


def _levels(node: _Node) -> str:
    return f"levels of {node.attributes['layer']}"


def _readable_kinds(node: _Node) -> set[str]:
    if node.operation == "ScaleBias":
        return {"float", "accumulators"}
    multiplies = node.operation in {"Convolution", "Linear"}
    return {_levels(node) if multiplies and node.quantizer else "float"}


def _result_kind(node: _Node) -> str:
    if node.operation == "QuantizeActivation":
        return _levels(node)
    return "accumulators" if node.quantizer else "float"


# --- The operations (3.5, 4.2 to 4.4) -------------------------------------------------------------


def _multiply(node: _Node, x: Tensor) -> Tensor:
    assert node.operand is not None
    weights = node.operand.to(x.device)
    if node.operation == "Linear":
        require(x.ndim == 2, "a matrix product reads [N, C]")  # noqa: PLR2004
        sums = functional.linear(x.to(weights.dtype), weights)
    else:
        names = ("stride", "padding", "dilation", "groups")
        options = {name: node.attributes[name] for name in names}
        sums = functional.conv2d(x.to(weights.dtype), weights, **options)
    return sums if node.quantizer else sums.float()


def _quantize(node: _Node, x: Tensor) -> Tensor:
    quantizer = node.quantizer
    assert quantizer is not None
    assert node.operand is not None
    product = x * quantizer.scale
    require(x.is_meta or not bool(product.isnan().any()), f"{node.name} reads a NaN")
    index = product.clamp_(0, quantizer.last).to(torch.int32)  # which cuts off fractions: floor
    return node.operand.to(x.device).index_select(0, index.flatten()).reshape(x.shape)


def _scale_bias(node: _Node, x: Tensor) -> Tensor:
    result = x.float()
    for part, combine in (("scale", torch.mul), ("bias", torch.add)):  # two roundings
        numbers = node.attributes[part].to(x.device)
        fine = numbers.ndim == 0 or len(numbers) == x.shape[1]
        require(fine, f"{part} has {numbers.numel()} channels, its input {x.shape[1]}")
        result = combine(result, numbers.reshape(-1, *[1] * (x.ndim - 2)))
    return result


def _add(node: _Node, a: Tensor, b: Tensor) -> Tensor:
    require(a.shape == b.shape, f"{node.name} adds values of different shapes")
    return a + b


def _clip(node: _Node, x: Tensor) -> Tensor:
    limits = torch.tensor([node.attributes["minimum"], node.attributes["maximum"]])
    require(limits[0] <= limits[1], "the minimum is above the maximum")
    return x.clamp(*limits.tolist())


def _upsample(node: _Node, x: Tensor) -> Tensor:
    height, width = node.attributes["scale"]
    return x.repeat_interleave(height, 2).repeat_interleave(width, 3)


def _max_pool(node: _Node, x: Tensor) -> Tensor:
    kernel, (height, width) = node.attributes["kernel"], node.attributes["padding"]
    require(height < kernel[0] and width < kernel[1], "the padding is as large as the window")
    padded = functional.pad(x, [width, width, height, height], value=-torch.inf)
    return functional.max_pool2d(padded, kernel, node.attributes["stride"])


def _average_pool(node: _Node, x: Tensor) -> Tensor:
    kernel, stride = node.attributes["kernel"], node.attributes["stride"]
    return functional.avg_pool2d(x.double(), kernel, stride).float()


_RUN: Mapping[str, Callable[..., Tensor]] = {
    "Convolution": _multiply,
    "Linear": _multiply,
    "QuantizeActivation": _quantize,
    "ScaleBias": _scale_bias,
    "Add": _add,
    "Relu": lambda _, x: x.relu(),
    "Clip": _clip,
    "Concat": lambda _, *values: torch.cat(values, dim=1),
    "Upsample": _upsample,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda _, x: x.double().mean((2, 3), keepdim=True).float(),
    "Flatten": lambda _, x: x.flatten(1),
}
