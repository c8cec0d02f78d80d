"""Read packed files: a coded network as JSON over named tensors (FORMAT.md, section 2)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from apot_export import budgets
from apot_export.artifacts import strict_json
from apot_export.artifacts.packed._container import StoredTensors, malformed, read
from apot_export.artifacts.packed._read_layers import (
    INTEGER,
    NEUTRAL,
    PARAMETERS,
    Parameters,
    read_codebook,
    read_layer,
)
from apot_export.errors import ApotExportError, PackedFileError
from apot_export.network import CodedNetwork, Network, Node, oracle
from apot_export.network import operations as op
from apot_export.network.codebook import MAXIMUM_DENOMINATOR
from apot_export.network.layers import (
    ActivationQuantizer,
    CodedLayer,
    EncodedCodes,
    FloatLayer,
    Layer,
    PlaneLayer,
)
from apot_export.network.memory_plan import most_numbers
from apot_export.network.shown import Shown, dimensions

_OPERATION_BY_NAME = {operation.__name__: operation for operation in get_args(op.Operation)}
_INDICES = {
    "axes": 1,
    "order": 1,
    "start": 0,
    "stop": 1,
    "step": 1,
    "before": 0,
    "after": 0,
    "shape": 1,
}
"""Attributes that are arrays of integers, and the least of each."""
_MOST_AXES = 32
"""Of a value: so many has an array of numpy."""
_FLOAT = "float32 values"
_ACCUMULATORS = "accumulators"
_WEIGHTED = (op.Convolution, op.Linear, op.QuantizeActivation)
_SPATIAL = (op.Resample, op.MaxPool, op.AveragePool, op.GlobalAveragePool, op.Upsample)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PackedNetwork(Shown):
    """A network read from a packed file.

    `layers[name]` has `.codes`, `.levels()`, `.step`, `.weights()` and `.codebook`. A layer's codes
    are read from the mapped file, and compared with their checksum, when they are first asked for.
    """

    network: CodedNetwork
    provenance: Mapping[str, Any]
    """What the network was made from: checkpoint digest, tool version, options, bit-width."""
    interface: Mapping[str, Any] | None = None
    """Inputs, outputs, preprocessing and classes: FORMAT.md, section 2.6; None in older files."""
    stored: StoredTensors | None = None
    """The tensors of the file; None for a network that was not read from one."""

    @cached_property
    def integer(self) -> bytes | None:
        """Its integer program, which FORMAT.md describes in section 8; None where it has none.

        Raises:
            PackedFileError: It is damaged.
        """
        if self.stored is None or INTEGER not in self.stored:
            return None
        return self.stored[INTEGER].tobytes()

    @property
    def layers(self) -> Mapping[str, Layer]:
        """The weighted layers by name, in order of computation."""
        return self.network.layers

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the oracle: preprocessed images float32 [N, C, H, W] to logits float32 [N, classes].

        Raises:
            DatasetError: The images do not have the network's input shape.
        """
        return oracle.run(self.network, images)

    def check(self) -> PackedNetwork:
        """Read and check everything that was left unread, and return the network.

        Raises:
            PackedFileError: Something of it is damaged or not well formed.
        """
        if self.stored is not None:
            self.stored.check_all()
        for layer in self.layers.values():
            if isinstance(layer, CodedLayer):
                _ = layer.codes if isinstance(layer.stored, EncodedCodes) else layer.packed
        return self

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "network", self.provenance.get("architecture")
        yield "family", self.provenance.get("family")
        yield "input", dimensions(self.network.input_shape)
        yield "layers", len(self.layers)


def load_packed(
    path: str | PathLike[str], *, lazy: bool = False, max_memory: int | None = None
) -> PackedNetwork:
    """Open a packed file, or the one in an export directory, with numpy alone.

    The file is mapped into memory; nothing is decoded before it is asked for.

    Args:
        path: The file or directory.
        lazy: Compare codes and float weights with their checksums when they are first used, which
            raise `PackedFileError` then, and not now: a layer is had without reading the others.
        max_memory: Bytes that the file may ask for; None: as many as one of its size needs
            (`budgets`).

    Raises:
        PackedFileError: The file is missing, truncated, damaged, of another version, or its
            network is not well formed, or asks for more memory than it may.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "model.apot.safetensors"
    with budgets.max_memory(max_memory):
        return _load(file, lazy=lazy)


def _load(file: Path, *, lazy: bool) -> PackedNetwork:
    metadata, tensors = read(file)
    try:
        provenance = _described(metadata, "provenance")
        interface = _described(metadata, "interface") if "interface" in metadata else None
        parameters = Parameters(tensors, metadata["format_version"])
        network = _network(strict_json.loads(metadata["network"]), tensors, parameters)
        _require_well_formed(network, tensors)
        node, numbers = most_numbers(network)
        tensors.require(budgets.NUMBERS, numbers, node)
        _require_program(tensors)
    except PackedFileError:
        raise
    except ApotExportError as error:
        raise malformed(str(file), str(error)) from error
    except (KeyError, ValueError, ArithmeticError) as error:
        raise malformed(str(file), f"{type(error).__name__}: {error}") from error
    if not lazy:
        tensors.check_all()
    return PackedNetwork(
        network=network, provenance=provenance, interface=interface, stored=tensors
    )


def _described(metadata: Mapping[str, str], name: str) -> Mapping[str, Any]:
    return strict_json.mapping(name, strict_json.loads(metadata[name]))


def _require_program(tensors: StoredTensors) -> None:
    """Raise `ValueError` where there is an integer program and it is not the last tensor."""
    if INTEGER in tensors and (
        tensors.unread(INTEGER, "u1").ndim != 1 or list(tensors)[-1] != INTEGER
    ):
        raise ValueError(f"{INTEGER} is not the last tensor, or has more than one axis")


def _network(content: Any, tensors: StoredTensors, parameters: Parameters) -> CodedNetwork:
    image, output, books, layers, nodes, further = strict_json.members(
        "network",
        content,
        ("input", "output", "codebooks", "layers", "nodes"),
        {"further_outputs": []},
    )
    name, extents = strict_json.fields("input", image, "name", "shape")
    channels, height, width = strict_json.integers("input", extents, least=1)
    codebooks = [read_codebook(book) for book in strict_json.array("codebooks", books)]
    coded: dict[str, Layer] = {}
    weights, entries = 0, sum(1 << book.bits for book in codebooks)
    tensors.require(budgets.TABLE_ENTRIES, entries, "codebooks")
    for layer, description in strict_json.mapping("layers", layers).items():
        coded[layer] = read = read_layer(layer, description, codebooks, tensors, parameters)
        weights += math.prod(read.shape)
        tensors.require(budgets.WEIGHTS, weights, layer)
        if read.activation is not None:
            entries += read.activation.last_index - read.activation.first_index
            tensors.require(budgets.TABLE_ENTRIES, entries, layer)
    graph: list[Node] = []
    before = strict_json.text("input", name)
    for description in strict_json.array("nodes", nodes):
        graph.append(_node(description, before, parameters))
        before = graph[-1].name
    parameters.require_end()
    # The order of an object's members means nothing, so layers get that of computation.
    used = [node.operation.layer for node in graph if isinstance(node.operation, _WEIGHTED)]
    network = Network[Layer](
        layers={name: coded[name] for name in [*used, *coded] if name in coded},
        nodes=tuple(graph),
        input=strict_json.text("input", name),
        input_shape=(channels, height, width),
        output=strict_json.text("output", output),
        further_outputs=tuple(
            strict_json.text("further_outputs", one)
            for one in strict_json.array("further_outputs", further)
        ),
    )
    parameters.require_version_of(network)
    for node, description in zip(network.nodes, nodes, strict=True):
        _require_every_channel(node, description, network)
    return network


def _require_every_channel(node: Node, description: Any, network: CodedNetwork) -> None:
    """Check that an array of one number is for one channel; a number alone is for all."""
    if isinstance(node.operation, op.ScaleBias):
        channels = network.shapes[node.inputs[0]][0]
        for part in NEUTRAL:
            numbers = getattr(node.operation, part)
            if isinstance(description.get(part), list) and numbers.size != channels:
                raise ValueError(f"{node.name}: {part} is not of {channels} channels")


def _node(description: Any, before: str, parameters: Parameters) -> Node:
    name = strict_json.text("node", strict_json.mapping("nodes", description)["name"])
    kind = _OPERATION_BY_NAME[strict_json.text(name, description["operation"])]
    defaults = NEUTRAL if kind is op.ScaleBias else {}
    fields = {
        field.name: defaults.get(field.name, field.default) for field in dataclasses.fields(kind)
    }
    required = [field for field, default in fields.items() if default is dataclasses.MISSING]
    optional = {field: fields[field] for field in fields if field not in required}
    _, _, *attributes, inputs = strict_json.members(
        name, description, ("name", "operation", *required), {**optional, "inputs": [before]}
    )
    operation: op.Operation = kind(
        **{
            field: _attribute(f"{name}: {field}", kind, field, attribute, parameters)
            for field, attribute in zip((*required, *optional), attributes, strict=True)
        }
    )
    sources = tuple(strict_json.text(name, source) for source in strict_json.array(name, inputs))
    return Node(name=name, inputs=sources, operation=operation)


def _attribute(
    where: str, kind: type[Any], field: str, attribute: Any, parameters: Parameters
) -> str | int | float | tuple[int, ...] | NDArray[Any] | None:
    if kind in (op.ScaleBias, op.Resample):
        is_run = kind is op.Resample or isinstance(attribute, list)
        return parameters.take(where, attribute) if is_run else _for_all_channels(where, attribute)
    if field in {"layer", "function"}:
        return strict_json.text(where, attribute)
    if field in _INDICES:
        axes = strict_json.integers(where, attribute, least=_INDICES[field])
        if len(axes) > _MOST_AXES:
            raise ValueError(f"{where}: {len(axes)} axes")
        return axes
    if field in {"minimum", "maximum", "value"}:
        is_none = field == "value" and attribute is None
        return None if is_none else strict_json.number(where, attribute)
    if field in {"groups", "axis"}:
        return strict_json.integer(where, attribute, least=1)
    pair = list(attribute) if isinstance(attribute, tuple) else attribute
    height, width = strict_json.integers(where, pair, least=0 if field == "padding" else 1)
    return height, width


def _for_all_channels(where: str, attribute: Any) -> NDArray[Any]:
    with np.errstate(over="ignore", under="ignore"):
        value = np.array([strict_json.number(where, attribute)]).astype(np.float32)
    if not np.isfinite(value).all():
        raise ValueError(f"{where}: {attribute} is too large for F32")
    return value


# --- what FORMAT.md requires of a whole network ---------------------------------------------------


def _require_well_formed(network: CodedNetwork, tensors: Iterable[str]) -> None:
    """Raise `ValueError` where a value has a wrong kind or size, or a tensor is unused."""
    for name, layer in network.layers.items():
        if isinstance(layer, FloatLayer) and len(layer.shape) not in {2, 4}:
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
    _require_floats(kinds, (network.output, *network.further_outputs))
    for name, shape in network.shapes.items():
        if not 0 < math.prod(shape) <= strict_json.LARGEST_INTEGER:
            raise ValueError(f"{name}: {list(shape)} is empty or too large")
    _check_names(network, tensors)


def _require_floats(kinds: Mapping[str, str], outputs: Iterable[str]) -> None:
    for output in outputs:
        if kinds[output] != _FLOAT:
            raise ValueError(f"the output {output} is of {kinds[output]}")


def _check_quantizer(name: str, quantizer: ActivationQuantizer) -> None:
    if not 0 < quantizer.alpha < np.inf:
        raise ValueError(f"{name}: the activation threshold {quantizer.alpha} is not positive")
    with np.errstate(over="ignore"):
        if not np.isfinite(quantizer.index_scale):
            raise ValueError(f"{name}: the activation threshold {quantizer.alpha} is too small")
    if quantizer.codebook.levels.min() < -MAXIMUM_DENOMINATOR:
        raise ValueError(f"{name}: an activation's levels go below -2^23")


def _kinds(network: CodedNetwork, node: Node) -> tuple[set[str], str]:
    """Return the kinds of values that a node accepts, and the kind that it produces."""
    operation = node.operation
    if isinstance(operation, op.ScaleBias):
        return {_FLOAT, _ACCUMULATORS}, _FLOAT
    if not isinstance(operation, _WEIGHTED):
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
    if isinstance(operation, op.Reduce) and operation.function not in {"mean", "max"}:
        raise ValueError(f"{node.name}: no reduction {operation.function}")
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
            terms = layer.planes.terms
            parts = ("planes",) if terms is None or not terms.size else ("planes", "terms")
        named.update(f"{name}.{part}" for part in parts)
    if left_over := set(tensors) - named:
        raise ValueError(f"no layer has the tensor {min(left_over)}")
