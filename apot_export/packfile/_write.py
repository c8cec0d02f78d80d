"""Writing the content of FORMAT.md, section 2: a coded network as JSON over named tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from apot_export.codebook import Codebook
from apot_export.network import CodedNetwork, FloatLayer, PlaneLayer, ScaleBias
from apot_export.packfile import _json
from apot_export.packfile._container import Container, write
from apot_export.planes import Planes, pack_counts


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
        if isinstance(layer, PlaneLayer):
            layers[name] = _describe_planes(layer.planes)
            tensors |= _plane_tensors(name, layer.planes)
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
                "input_denominator": layer.activation.input_steps,
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


def _describe_planes(planes: Planes) -> dict[str, Any]:
    return {
        "kind": "planes",
        "shape": list(planes.shape),
        "group_size": planes.group_size,
        "position_major": planes.position_major,
        "bases": int(planes.coordinates.size),
        "count_bits": pack_counts(planes.counts)[1],
        "terms": 0 if planes.terms is None else planes.terms.shape[1],
    }


def _plane_tensors(name: str, planes: Planes) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {
        f"{name}.planes": planes.packed,
        f"{name}.counts": pack_counts(planes.counts)[0],
    }
    if planes.terms is None:
        tensors[f"{name}.coordinates"] = planes.coordinates
    else:
        tensors[f"{name}.terms"] = planes.terms
    return tensors


def _index(codebooks: list[Codebook], codebook: Codebook) -> int:
    if codebook not in codebooks:
        codebooks.append(codebook)
    return codebooks.index(codebook)
