"""The content of FORMAT.md, section 2: a coded network as JSON over named tensors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apot_export import reference
from apot_export.bitpack import unpack
from apot_export.codebook import MAXIMUM_LEVEL, Codebook, storage_bytes
from apot_export.errors import ApotExportError, PackedFileError
from apot_export.network import (
    ActivationQuantizer,
    Add,
    AveragePool,
    CodedLayer,
    CodedNetwork,
    Convolution,
    Flatten,
    FloatLayer,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Network,
    Node,
    Operation,
    QuantizeActivation,
    Relu,
    ScaleBias,
)
from apot_export.packfile import _json
from apot_export.packfile._container import Container, read, write
from apot_export.packfile._wellformed import require_well_formed

if TYPE_CHECKING:
    from os import PathLike

Tensors = Mapping[str, NDArray[Any]]

_OPERATIONS: tuple[type[Any], ...] = (
    Convolution,
    Linear,
    QuantizeActivation,
    ScaleBias,
    Add,
    Relu,
    MaxPool,
    AveragePool,
    GlobalAveragePool,
    Flatten,
)
_OPERATION_BY_NAME = {operation.__name__: operation for operation in _OPERATIONS}


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedNetwork:
    """A network read from a packed file.

    `layers[name]` has `.codes`, `.levels()`, `.step`, `.weights()` and `.codebook`.
    """

    network: CodedNetwork
    provenance: Mapping[str, Any]
    """What the network was made from: checkpoint digest, tool version, options, bit-width."""

    @property
    def layers(self) -> Mapping[str, Layer]:
        """The weighted layers by name, in order of computation."""
        return self.network.layers

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the oracle: preprocessed images float32 [N, C, H, W] to logits float32 [N, classes].

        Raises:
            DatasetError: The images do not have the network's input shape.
        """
        return reference.run(self.network, images)


# --- writing --------------------------------------------------------------------------------------


def packed_file_bytes(network: CodedNetwork, provenance: Mapping[str, Any]) -> bytes:
    """Serialise a coded network: the same network and provenance give the same bytes.

    Raises:
        ValueError: The network or the provenance holds what FORMAT.md cannot store.
    """
    codebooks: list[Codebook] = []
    tensors: dict[str, NDArray[Any]] = {}
    layers: dict[str, Any] = {}
    for name, layer in network.layers.items():
        if isinstance(layer, FloatLayer):
            layers[name] = {"kind": "float"}
            tensors[f"{name}.weight"] = layer.weight
            continue
        layers[name] = {
            "kind": "coded",
            "shape": list(layer.shape),
            "codebook": _index(codebooks, layer.codebook),
            "step": layer.step,
            "alpha": layer.alpha,
            "activation": None
            if layer.activation is None
            else {
                "codebook": _index(codebooks, layer.activation.codebook),
                "alpha": float(layer.activation.alpha),
                "input_denominator": layer.activation.input_denominator,
            },
        }
        tensors[f"{name}.codes"] = layer.packed
        tensors[f"{name}.values"] = layer.values
    nodes = []
    for node in network.nodes:
        attributes = {
            field.name: getattr(node.operation, field.name)
            for field in dataclasses.fields(node.operation)
        }
        if isinstance(node.operation, ScaleBias):
            for key, value in attributes.items():
                tensors[f"{node.name}.{key}"] = value
            attributes = {}
        operation = type(node.operation).__name__
        nodes.append(
            {"name": node.name, "operation": operation, "inputs": list(node.inputs), **attributes}
        )
    content = {
        "input": {"name": network.input, "shape": list(network.input_shape)},
        "output": network.output,
        "codebooks": [
            {"tables": book.tables, "denominator": book.denominator, "signed": book.signed}
            for book in codebooks
        ],
        "layers": layers,
        "nodes": nodes,
    }
    metadata = {
        "network": _json.dumps(content),
        "provenance": _json.dumps(provenance, sort_keys=True),
    }
    return write(Container(metadata=metadata, tensors=tensors))


def _index(codebooks: list[Codebook], codebook: Codebook) -> int:
    if codebook not in codebooks:
        codebooks.append(codebook)
    return codebooks.index(codebook)


# --- reading --------------------------------------------------------------------------------------


def load_packed(path: str | PathLike[str]) -> PackedNetwork:
    """Read a packed file, or the one in an export directory, with numpy alone.

    Raises:
        PackedFileError: The file is missing, truncated, damaged, of another version, or its
            network is not well formed.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "model.apot.safetensors"
    container = read(file)
    try:
        provenance = _json.mapping("provenance", _json.loads(container.metadata["provenance"]))
        network = _network(_json.loads(container.metadata["network"]), container.tensors)
        require_well_formed(network, container.tensors)
    except ApotExportError as error:
        raise PackedFileError(
            "The packed file's network is not well formed.", where=str(file), got=str(error)
        ) from error
    except (KeyError, ValueError, ArithmeticError) as error:
        raise PackedFileError(
            "The packed file's network is not well formed.",
            where=str(file),
            expected="a network as FORMAT.md describes",
            got=f"{type(error).__name__}: {error}",
        ) from error
    return PackedNetwork(network=network, provenance=provenance)


def _network(content: Any, tensors: Tensors) -> CodedNetwork:
    image, output, books, layers, nodes = _json.fields(
        "network", content, "input", "output", "codebooks", "layers", "nodes"
    )
    name, extents = _json.fields("input", image, "name", "shape")
    channels, height, width = _json.integers("input", extents, least=1)
    codebooks = [_codebook(book) for book in _json.array("codebooks", books)]
    return Network[Layer](
        layers={
            layer: _layer(layer, description, codebooks, tensors)
            for layer, description in _json.mapping("layers", layers).items()
        },
        nodes=tuple(_node(description, tensors) for description in _json.array("nodes", nodes)),
        input=_json.text("input", name),
        input_shape=(channels, height, width),
        output=_json.text("output", output),
    )


def _codebook(description: Any) -> Codebook:
    where = "codebooks"
    tables, denominator, signed = _json.fields(
        where, description, "tables", "denominator", "signed"
    )
    return Codebook(
        tables=tuple(
            _json.integers(where, table, least=-MAXIMUM_LEVEL, most=MAXIMUM_LEVEL)
            for table in _json.array(where, tables)
        ),
        denominator=_json.integer(where, denominator),
        signed=_json.boolean(where, signed),
    )


def _layer(name: str, description: Any, codebooks: list[Codebook], tensors: Tensors) -> Layer:
    if _json.mapping(name, description).get("kind") == "float":
        _json.fields(name, description, "kind")
        return FloatLayer(name=name, weight=_tensor(tensors, f"{name}.weight", "<f4"))
    kind, extents, book, step, alpha, activation = _json.fields(
        name, description, "kind", "shape", "codebook", "step", "alpha", "activation"
    )
    if kind != "coded":
        raise ValueError(f"{name}: unknown kind {kind!r}")
    codebook = _chosen(name, codebooks, book)
    shape = _json.integers(name, extents, least=1)
    packed = _tensor(tensors, f"{name}.codes", "u1", storage_bytes(shape, codebook.bits))
    count = math.prod(shape)
    tail = (count - 1) % 8 + 1
    unpack(packed[(count - tail) * codebook.bits // 8 :], codebook.bits, tail)  # zero filling bits
    return CodedLayer(
        name=name,
        shape=shape,
        packed=packed,
        codebook=codebook,
        step=_json.number(name, step),
        values=_tensor(tensors, f"{name}.values", "<f4", 1 << codebook.bits),
        alpha=None if alpha is None else _json.number(name, alpha),
        activation=None if activation is None else _activation(name, activation, codebooks),
    )


def _activation(name: str, description: Any, codebooks: list[Codebook]) -> ActivationQuantizer:
    book, alpha, steps = _json.fields(name, description, "codebook", "alpha", "input_denominator")
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.float32(_json.number(name, alpha))
    return ActivationQuantizer(
        codebook=_chosen(name, codebooks, book),
        alpha=rounded,
        input_denominator=_json.integer(name, steps, least=1, most=MAXIMUM_LEVEL),
    )


def _chosen(name: str, codebooks: list[Codebook], index: Any) -> Codebook:
    return codebooks[_json.integer(name, index, most=len(codebooks) - 1)]


def _tensor(tensors: Tensors, name: str, dtype: str, size: int | None = None) -> NDArray[Any]:
    tensor = tensors[name]
    if tensor.dtype != np.dtype(dtype) or (size is not None and tensor.shape != (size,)):
        raise ValueError(f"{name}: {tensor.dtype} {list(tensor.shape)} is not what it must be")
    if tensor.dtype != np.uint8 and not np.isfinite(tensor).all():
        raise ValueError(f"{name}: values that are not finite")
    return tensor


def _node(description: Any, tensors: Tensors) -> Node:
    name = _json.text("node", _json.mapping("nodes", description)["name"])
    kind = _OPERATION_BY_NAME[_json.text(name, description["operation"])]
    names = [] if kind is ScaleBias else [field.name for field in dataclasses.fields(kind)]
    _, _, inputs, *attributes = _json.fields(
        name, description, "name", "operation", "inputs", *names
    )
    if kind is ScaleBias:
        scale = _tensor(tensors, f"{name}.scale", "<f4")
        operation: Operation = ScaleBias(
            scale=scale, bias=_tensor(tensors, f"{name}.bias", "<f4", scale.size)
        )
    else:
        operation = kind(
            **{
                field: _attribute(f"{name}: {field}", field, attribute)
                for field, attribute in zip(names, attributes, strict=True)
            }
        )
    sources = tuple(_json.text(name, source) for source in _json.array(name, inputs))
    return Node(name=name, inputs=sources, operation=operation)


def _attribute(where: str, field: str, attribute: Any) -> str | int | tuple[int, int]:
    if field == "layer":
        return _json.text(where, attribute)
    if field == "groups":
        return _json.integer(where, attribute, least=1)
    height, width = _json.integers(where, attribute, least=0 if field == "padding" else 1)
    return height, width
