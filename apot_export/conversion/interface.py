"""What surrounds an exported network: its inputs and outputs, preprocessing and classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apot_export.artifacts.onnx_model import INPUT, OUTPUT
from apot_export.artifacts.onnx_model.integer_graph import logits_are_wide
from apot_export.errors import DatasetError
from apot_export.integer import IntegerNetwork
from apot_export.network import CodedNetwork


def is_published(manifest: Mapping[str, Any]) -> bool:
    """Return whether a manifest's network is a published one, whose dataset is known."""
    return "model" not in manifest and manifest["checkpoint"]["path"] is not None


def interface_of(coded: CodedNetwork, code: str | None) -> dict[str, Any]:
    """Return the interface of a network's float model, which FORMAT.md describes in section 2.6.

    Args:
        coded: The network.
        code: Whose preprocessing it was trained with (see `Family.preprocessing`); None for a
            network whose dataset is not known.
    """
    preprocessing, classes = _dataset(coded, code) if code is not None else (None, None)
    return {
        "inputs": [_value(INPUT, "float32", coded.input_shape)],
        "outputs": [
            _value(name, "float32", coded.shapes[value])
            for name, value in (
                (OUTPUT, coded.output),
                *((output, output) for output in coded.further_outputs),
            )
        ],
        "preprocessing": preprocessing,
        "classes": classes,
    }


def integer_interface(interface: Mapping[str, Any], integer: IntegerNetwork) -> dict[str, Any]:
    """Return the interface of the integer model of a network.

    Args:
        interface: Of the float model.
        integer: The integer network.
    """
    last = integer.nodes[-1]
    reads = "float32" if integer.pixels is None else "uint8"
    output = _value(OUTPUT, "int64" if logits_are_wide(last) else "int32", last.shape)
    return {
        **interface,
        "inputs": [_value(INPUT, reads, integer.input_shape)],
        "outputs": [{**output, "scale": str(integer.logit_scale)}],
    }


def with_integer(interface: Mapping[str, Any], integer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the interface of an export of both models."""
    return {**interface, "integer": {name: integer[name] for name in ("inputs", "outputs")}}


def _dataset(coded: CodedNetwork, code: str) -> tuple[dict[str, Any] | None, list[str] | None]:
    # Only here: it takes time, and other uses of this package do without.
    from apot_export.datasets import kind_of

    try:
        kind = kind_of(None, coded.input_shape, coded.shapes[coded.output][0])
    except DatasetError:  # images of another size, or other classes
        return None, None
    return kind.preprocessing(code), list(kind.names())


def _value(name: str, kind: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "type": kind, "shape": list(shape)}
