"""The content of FORMAT.md, section 2: a coded network as JSON over named tensors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export import reference
from apot_export.bitpack import unpack
from apot_export.codebook import Codebook
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
from apot_export.packfile._container import Container, read, write

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
    """Serialise a coded network: the same network and provenance give the same bytes."""
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
        "network": json.dumps(content, separators=(",", ":")),
        "provenance": json.dumps(provenance, separators=(",", ":"), sort_keys=True),
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
        content = json.loads(container.metadata["network"])
        provenance = json.loads(container.metadata["provenance"])
        network = _network(content, container.tensors)
    except ApotExportError as error:
        raise PackedFileError(
            "The packed file's network is not well formed.", where=str(file), got=str(error)
        ) from error
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise PackedFileError(
            "The packed file's network is not well formed.",
            where=str(file),
            expected="a network as FORMAT.md describes",
            got=f"{type(error).__name__}: {error}",
        ) from error
    return PackedNetwork(network=network, provenance=provenance)


def _network(content: dict[str, Any], tensors: Mapping[str, NDArray[Any]]) -> CodedNetwork:
    codebooks = [
        Codebook(
            tables=tuple(tuple(int(addend) for addend in table) for table in book["tables"]),
            denominator=int(book["denominator"]),
            signed=bool(book["signed"]),
        )
        for book in content["codebooks"]
    ]
    layers = {
        name: _layer(name, description, codebooks, tensors)
        for name, description in content["layers"].items()
    }
    nodes = tuple(_node(description, tensors) for description in content["nodes"])
    channels, height, width = (int(extent) for extent in content["input"]["shape"])
    return Network[Layer](
        nodes=nodes,
        layers=layers,
        input=str(content["input"]["name"]),
        input_shape=(channels, height, width),
        output=str(content["output"]),
    )


def _layer(
    name: str,
    description: dict[str, Any],
    codebooks: list[Codebook],
    tensors: Mapping[str, NDArray[Any]],
) -> Layer:
    if description["kind"] == "float":
        return FloatLayer(name=name, weight=tensors[f"{name}.weight"])
    if description["kind"] != "coded":
        raise ValueError(f"{name}: unknown kind {description['kind']!r}")
    codebook = codebooks[description["codebook"]]
    shape = tuple(int(extent) for extent in description["shape"])
    packed, values = tensors[f"{name}.codes"], tensors[f"{name}.values"]
    count = int(np.prod(shape, dtype=np.int64))
    if packed.shape != ((count * codebook.bits + 7) // 8,) or values.shape != (1 << codebook.bits,):
        raise ValueError(f"{name}: {packed.shape} codes and {values.shape} values for {shape}")
    tail = (count - 1) % 8 + 1 if count else 0
    unpack(packed[(count - tail) * codebook.bits // 8 :], codebook.bits, tail)  # zero filling bits
    activation = description["activation"]
    return CodedLayer(
        name=name,
        shape=shape,
        packed=packed,
        codebook=codebook,
        step=float(description["step"]),
        values=values,
        alpha=None if description["alpha"] is None else float(description["alpha"]),
        activation=None
        if activation is None
        else ActivationQuantizer(
            codebook=codebooks[activation["codebook"]], alpha=np.float32(activation["alpha"])
        ),
    )


def _node(description: dict[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Node:
    name = str(description["name"])
    kind = _OPERATION_BY_NAME[description["operation"]]
    if kind is ScaleBias:
        operation: Operation = ScaleBias(
            scale=tensors[f"{name}.scale"], bias=tensors[f"{name}.bias"]
        )
    else:
        fields = [field.name for field in dataclasses.fields(kind)]
        attributes = {field: description[field] for field in fields}
        operation = kind(
            **{
                field: tuple(map(int, value)) if isinstance(value, list) else value
                for field, value in attributes.items()
            }
        )
    return Node(name=name, inputs=tuple(map(str, description["inputs"])), operation=operation)
