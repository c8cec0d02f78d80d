"""A right export, and ways to plant faults in it that are consistent in themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from apot_export.artifacts.directory import ONNX_MODEL, PACKED_MODEL, read_manifest, write_export
from apot_export.artifacts.onnx_model import build_model, serialise
from apot_export.artifacts.packed import load_packed
from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.conversion.convert import convert
from apot_export.network import (
    CodedLayer,
    CodedNetwork,
    Operation,
)
from apot_export.verification import Report, verify

DIGITS = "examples/digits/res8_4bit/model_best.pth.tar"
LAYER = "layer2.0.conv2"
Change = Callable[[CodedNetwork], CodedNetwork]
Edit = Callable[[onnx.ModelProto], None]


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """A right export, and a place to write wrong ones that are consistent in themselves."""

    checkpoint: Path
    export: Path
    folder: Path

    @property
    def network(self) -> CodedNetwork:
        return load_packed(self.export).network

    def write(
        self,
        *,
        packed: CodedNetwork | None = None,
        model: CodedNetwork | None = None,
        edit: Edit | None = None,
        **manifest: Any,
    ) -> Path:
        """Write an export of given networks, its digests right, and return its directory."""
        proto = build_model(
            self.network if model is None else model, name="x", tool="test 1", metadata={}
        )
        if edit is not None:
            edit(proto)
        provenance = load_packed(self.export).provenance
        content = packed_file_bytes(self.network if packed is None else packed, provenance)
        files = {ONNX_MODEL: serialise(proto), PACKED_MODEL: content}
        target = self.folder / f"planted{len(list(self.folder.iterdir()))}"
        write_export(target, files, {**read_manifest(self.export), **manifest}, force=False)
        return target

    def verify(self, export: Path, **options: Any) -> Report:
        options = {"device": "cpu", "limit": 32, "checkpoint": self.checkpoint, **options}
        return verify(export, **options)


def change_layer(network: CodedNetwork, name: str, **changes: Any) -> CodedNetwork:
    layer = network.layers[name]
    assert isinstance(layer, CodedLayer)
    return replace(network, layers={**network.layers, name: replace(layer, **changes)})


def change_node(
    network: CodedNetwork, name: str, change: Callable[[Any], Operation]
) -> CodedNetwork:
    nodes = tuple(
        replace(node, operation=change(node.operation)) if node.name == name else node
        for node in network.nodes
    )
    assert nodes != network.nodes
    return replace(network, nodes=nodes)


def open_workshop(checkpoint: Path, folder: Path) -> Workshop:
    (folder / "planted").mkdir()
    export = convert(checkpoint, folder / "export").path
    return Workshop(checkpoint=checkpoint, export=export, folder=folder / "planted")
