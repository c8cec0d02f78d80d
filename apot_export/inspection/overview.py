"""What a checkpoint, an export, a packed file or an ONNX model is."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apot_export.inspection.cost import Cost, stored_bits
from apot_export.inspection.widths import kind_of
from apot_export.network import CodedNetwork
from apot_export.network.shown import Shown


@dataclass(frozen=True, kw_only=True, repr=False)
class Overview(Shown):
    """What something is; None, or nothing, where it does not say."""

    path: Path
    kind: str
    """"export", "packed file", "ONNX model" or "checkpoint"."""
    architecture: str | None = None
    family: str | None = None
    made_from: Mapping[str, Any] = field(default_factory=dict)
    """Of an export: "checkpoint" (its path), "sha256" and the "tool" that made it."""
    assumptions: Sequence[Mapping[str, Any]] = ()
    """Every part of the quantization: "what", "value" and "source"."""
    inputs: Sequence[Mapping[str, Any]] = ()
    """Name, type and shape of each; that of one image without the batch."""
    outputs: Sequence[Mapping[str, Any]] = ()
    preprocessing: Mapping[str, Any] | None = None
    classes: int | None = None
    layers: Mapping[str, int] = field(default_factory=dict)
    """How many layers are stored in each way: see `LayerWidth.kind`."""
    weights: int | None = None
    stored_bits: int | None = None
    """Bits of all weights."""
    bytes: Mapping[str, int] = field(default_factory=dict)
    """Of every file, and of every part of a packed file."""
    cost: Cost | None = None
    target: str | None = None
    integer: Mapping[str, Any] | None = None
    """Fraction bits and input of the integer network."""
    record: Mapping[str, Any] | None = None
    """The accuracy that the checkpoint records: "key" and "value"."""
    verdict: Mapping[str, Any] | None = None
    """The last verification: "verdict", "date", "dataset", "images" and "export_top1"."""
    model: Mapping[str, Any] | None = None
    """Of an ONNX model: see `artifacts.onnx_model.summary`."""

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form; costs in all, without those of layers."""
        fields = dataclasses.fields(self)
        content = {one.name: getattr(self, one.name) for one in fields if one.name != "cost"}
        content["path"] = str(self.path)
        if self.cost is not None:
            forms = [dataclasses.asdict(form) for form in self.cost.forms]
            content["cost"] = {"macs": self.cost.macs, "forms": forms}
        return {key: value for key, value in content.items() if value is not None}

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "path", self.path
        yield "kind", self.kind
        yield "network", self.architecture
        yield "weights", None if self.weights is None else f"{self.weights:,}"


def of_network(network: CodedNetwork) -> dict[str, Any]:
    """Return the fields of an overview that a coded network tells."""
    layers = network.layers.values()
    outputs = (network.output, *network.further_outputs)
    return {
        "inputs": [_value(network, network.input)],
        "outputs": [_value(network, name) for name in outputs],
        "layers": dict(Counter(kind_of(layer) for layer in layers)),
        "weights": sum(math.prod(layer.shape) for layer in layers),
        "stored_bits": sum(stored_bits(layer) for layer in layers),
    }


def _value(network: CodedNetwork, name: str) -> dict[str, Any]:
    return {"name": name, "type": "float32", "shape": list(network.shapes[name])}


def of_interface(interface: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields that the interface of a file tells: FORMAT.md, section 2.6."""
    if interface is None:
        return {}
    classes = interface.get("classes")
    return {
        **{part: interface[part] for part in ("inputs", "outputs") if part in interface},
        "preprocessing": interface.get("preprocessing"),
        "classes": None if classes is None else len(classes),
    }


def of_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that an export's manifest tells."""
    verified, form = manifest.get("verification"), manifest.get("integer")
    return {
        "architecture": manifest["architecture"],
        "family": manifest["family"],
        "made_from": {
            "checkpoint": manifest["checkpoint"]["path"],
            "sha256": manifest["checkpoint"]["sha256"],
            "tool": manifest.get("tool"),
        },
        "assumptions": manifest.get("assumptions", ()),
        **of_interface(manifest.get("interface")),
        "target": manifest.get("target"),
        "record": manifest.get("record"),
        "integer": _chosen(form, ("fraction_bits", "input", "input_bits")),
        "verdict": _chosen(verified, ("verdict", "date", "dataset", "images", "export_top1")),
    }


def _chosen(content: Mapping[str, Any] | None, names: Sequence[str]) -> dict[str, Any] | None:
    return None if content is None else {name: content.get(name) for name in names}
