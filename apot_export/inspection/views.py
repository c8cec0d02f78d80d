"""What `inspect` found, as tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apot_export.inspection.widths import OPERATIONS, operation_totals
from apot_export.network.shown import dimensions
from apot_export.original import families
from apot_export.presentation.numbers import in_bytes
from apot_export.presentation.tables import Column, View, count, digits
from apot_export.presentation.words import LEVELS, SOURCES

if TYPE_CHECKING:
    from apot_export.inspection.overview import Overview
    from apot_export.inspection.thresholds import Thresholds
    from apot_export.inspection.widths import Widths

LAYER = Column(key="layer", title="layer", left=True)


# --- overview -------------------------------------------------------------------------------------


def overview_views(found: Overview) -> Iterator[View]:
    """Return what people read of an overview: facts, then tables."""
    yield View(columns=(), rows=(), title=f"{found.path}: {found.kind}", facts=[*_facts(found)])
    if found.assumptions:
        parts = [
            {
                "what": part["what"],
                "value": LEVELS.get(str(part["value"]), str(part["value"])),
                "source": SOURCES.get(part["source"], part["source"]),
            }
            for part in found.assumptions
        ]
        yield View(
            columns=(
                Column(key="what", title="quantization", left=True),
                Column(key="value", title="value", left=True),
                Column(key="source", title="source", left=True),
            ),
            rows=parts,
        )
    yield View(
        columns=(
            Column(key="part", title="part", left=True),
            Column(key="bytes", title="bytes", show=count),
        ),
        rows=[{"part": part, "bytes": size} for part, size in found.bytes.items()],
    )


def flat_view(content: Mapping[str, Any]) -> View:
    """Return a JSON object as rows of dotted names and values, for CSV and plain columns."""
    rows = [{"name": name, "value": value} for name, value in _flat("", content)]
    name = Column(key="name", title="name", left=True)
    return View(columns=(name, Column(key="value", title="value", left=True)), rows=rows)


def _flat(name: str, content: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(f"{name}.{key}" if name else str(key), value)
    elif isinstance(content, (list, tuple)) and any(isinstance(one, Mapping) for one in content):
        for number, value in enumerate(content):
            yield from _flat(f"{name}.{number}", value)
    else:
        is_list = isinstance(content, (list, tuple))
        yield name, " ".join(map(str, content)) if is_list else content


def _facts(found: Overview) -> Iterator[tuple[str, str]]:
    if found.architecture:
        yield "network", f"{found.architecture}, family {found.family}"
    if source := found.made_from.get("checkpoint"):
        yield "made from", str(source)
    if digest := found.made_from.get("sha256"):
        yield "SHA-256", str(digest)
    for name, values in (("input", found.inputs), ("output", found.outputs)):
        for value in values:
            yield name, f"{value['name']}: {value['type']} {dimensions(value['shape'])}"
    if found.preprocessing:
        yield "images", _preprocessing(found.preprocessing)
    if found.classes:
        yield "classes", str(found.classes)
    if found.weights and found.stored_bits is not None:
        kinds = ", ".join(f"{number} of {kind}" for kind, number in found.layers.items())
        yield "layers", f"{sum(found.layers.values())}: {kinds}"
        density = f"{found.stored_bits / found.weights:.2f} bits a weight"
        stored = in_bytes(math.ceil(found.stored_bits / 8))
        yield "weights", f"{found.weights:,} in {stored}: {density}"
    if found.cost:
        stored_form = found.cost.forms[0]
        yield (
            "an image",
            (
                f"{found.cost.macs:,} multiply-accumulates; as stored {stored_form.additions:,} "
                f"additions and {stored_form.shifts:,} shifts (see inspect cost)"
            ),
        )
        yield "activations", f"{stored_form.peak_bytes:,} bytes at their peak"
    yield from _of_files(found)


def _of_files(found: Overview) -> Iterator[tuple[str, str]]:
    if found.target:
        yield "target", found.target
    if found.integer:
        form = found.integer
        yield "integer", f"{form['fraction_bits']} fraction bits, {form['input']} input"
    if found.record:
        yield "record", f"{found.record['key']} {found.record['value']:.2%} in the checkpoint"
    if found.verdict:
        said = found.verdict
        top1 = "" if said["export_top1"] is None else f", top-1 {said['export_top1']:.2%}"
        yield (
            "verified",
            (
                f"{said['verdict']} on {said['date']}: {said['images']} images of "
                f"{said['dataset']}{top1}"
            ),
        )
    elif found.kind == "export":
        yield "verified", "not yet (apot-export verify)"
    if found.model:
        model = found.model
        opsets = ", ".join(f"{name} {version}" for name, version in model["opsets"].items())
        yield "ONNX", f"IR version {model['ir_version']}, opsets {opsets}; by {model['producer']}"
        nodes = ", ".join(f"{number} {name}" for name, number in model["nodes"].items())
        yield "nodes", nodes
        yield "constants", f"{model['constant_bytes']:,} bytes"


def _preprocessing(said: Mapping[str, Any]) -> str:
    size = f", resized to {said['resize']}" if said.get("resize") else ""
    crop = f", cropped to {said['crop']}" if said.get("crop") else ""
    low, high = said["range"]
    return (
        f"{said['channels']} {low} to {high}{size}{crop}, of {said['dataset']}; "
        f"mean {said['mean']}, deviation {said['std']}"
    )


# --- alphas, bits, integer ------------------------------------------------------------------------


def alphas_view(found: Thresholds) -> View:
    """Return clipping thresholds with bars."""
    largest = max((abs(layer.activation_alpha) for layer in found.layers), default=0.0)
    notes, hints = [], []
    if not found.layers:
        is_multi_bit = found.family == families.MULTI_BIT.name
        kind = "multi-bit weights, see inspect bits" if is_multi_bit else "floats"
        notes.append(f"No layer has clipping thresholds: {kind}.")
    if any(layer.weight_bits is None for layer in found.layers):
        hints.append("Bits are unknown: a checkpoint does not hold them; say --bits N.")
    rows = [
        {
            **dataclasses.asdict(layer),
            "share": abs(layer.activation_alpha) / largest if largest else 0.0,
        }
        for layer in found.layers
    ]
    return View(
        title=f"{found.source}: family {found.family}",
        columns=(
            LAYER,
            Column(key="weight_alpha", title="weight alpha", show="{:.4f}".format),
            Column(key="activation_alpha", title="activation alpha", show="{:.4f}".format),
            Column(key="weight_bits", title="weight bits"),
            Column(key="activation_bits", title="activation bits", leaves=2),
            Column(key="share", title="share", draw="bar", leaves=1),
        ),
        rows=rows,
        notes=notes,
        hints=hints,
    )


def bits_view(found: Widths) -> View:
    """Return the bits of every layer's weights with bars."""
    total = sum(layer.stored_bits for layer in found.layers)
    rows = [
        {
            **dataclasses.asdict(layer),
            "bytes": math.ceil(layer.stored_bits / 8),
            "share": layer.stored_bits / total if total else 0.0,
        }
        for layer in found.layers
    ]
    vectors = any(layer.filters is not None for layer in found.layers)
    weights = sum(layer.weights for layer in found.layers)
    return View(
        title=str(found.source),
        columns=(
            LAYER,
            Column(key="kind", title="stored as", left=True, leaves=2),
            Column(key="weights", title="weights", show=count),
            *([Column(key="filters", title="vectors", show=count)] if vectors else []),
            Column(key="bits", title="bits", show=digits),
            Column(key="bytes", title="bytes", show=count),
            Column(key="share", title="share of bytes", draw="bar", leaves=1),
        ),
        rows=rows,
        notes=(
            f"{weights:,} weights in {in_bytes(math.ceil(total / 8))}: "
            f"{total / weights:.2f} bits a weight as stored, {found.average:.4g} as trained",
        ),
    )


def integer_view(path: Path, form: Mapping[str, Any]) -> View:
    """Return the integer network's operations and ranges."""
    rows = [
        {
            "value": name,
            **counts,
            "smallest": form["ranges"][name][0],
            "largest": form["ranges"][name][1],
        }
        for name, counts in form["operations"].items()
    ]
    totals = ", ".join(f"{total:,} {kind}" for kind, total in operation_totals(form).items())
    return View(
        title=str(path),
        facts=(
            (
                "integer",
                f"{form['fraction_bits']} fraction bits, {form['input']} input of "
                f"{form['input_bits']}; one unit of a logit is "
                f"{float(Fraction(form['logit_scale'])):.3g}",
            ),
        ),
        columns=(
            Column(key="value", title="value", left=True),
            *(
                Column(key=kind, title=kind, show=lambda n: count(n) if n else "", leaves=leaves)
                for kind, leaves in zip(OPERATIONS, (0, 0, 3), strict=True)
            ),
            Column(key="bits", title="bits"),
            Column(key="smallest", title="smallest", show="{:.2g}".format, leaves=1),
            Column(key="largest", title="largest", show="{:.2g}".format, leaves=2),
        ),
        rows=rows,
        notes=(f"One image, without a multiplier: {totals}.",),
    )
