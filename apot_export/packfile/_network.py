"""The content of FORMAT.md, section 2: a coded network as JSON over named tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apot_export import reference
from apot_export.errors import ApotExportError, PackedFileError
from apot_export.network import (
    Add,
    AveragePool,
    Clip,
    CodedNetwork,
    Concat,
    Convolution,
    Flatten,
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
    Upsample,
)
from apot_export.packfile import _json
from apot_export.packfile._container import read
from apot_export.packfile._layers import Tensors, read_codebook, read_layer, read_tensor
from apot_export.packfile._wellformed import require_well_formed

if TYPE_CHECKING:
    from os import PathLike

_OPERATIONS: tuple[type[Any], ...] = (
    Convolution,
    Linear,
    QuantizeActivation,
    ScaleBias,
    Add,
    Relu,
    Clip,
    Concat,
    Upsample,
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
    codebooks = [read_codebook(book) for book in _json.array("codebooks", books)]
    return Network[Layer](
        layers={
            layer: read_layer(layer, description, codebooks, tensors)
            for layer, description in _json.mapping("layers", layers).items()
        },
        nodes=tuple(_node(description, tensors) for description in _json.array("nodes", nodes)),
        input=_json.text("input", name),
        input_shape=(channels, height, width),
        output=_json.text("output", output),
    )


def _node(description: Any, tensors: Tensors) -> Node:
    name = _json.text("node", _json.mapping("nodes", description)["name"])
    kind = _OPERATION_BY_NAME[_json.text(name, description["operation"])]
    names = [] if kind is ScaleBias else [field.name for field in dataclasses.fields(kind)]
    _, _, inputs, *attributes = _json.fields(
        name, description, "name", "operation", "inputs", *names
    )
    if kind is ScaleBias:
        scale = read_tensor(tensors, f"{name}.scale", "<f4")
        operation: Operation = ScaleBias(
            scale=scale, bias=read_tensor(tensors, f"{name}.bias", "<f4")
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


def _attribute(where: str, field: str, attribute: Any) -> str | int | float | tuple[int, int]:
    if field == "layer":
        return _json.text(where, attribute)
    if field in {"minimum", "maximum"}:
        return _json.number(where, attribute)
    if field == "groups":
        return _json.integer(where, attribute, least=1)
    height, width = _json.integers(where, attribute, least=0 if field == "padding" else 1)
    return height, width
