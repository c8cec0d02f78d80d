"""What `inspect` found, as tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apot_export.original import families

from ._render import LEVELS, OPERATIONS, SOURCES, in_bytes, operation_totals
from ._tables import Column, View

if TYPE_CHECKING:
    from apot_export.inspection.cost import Cost
    from apot_export.inspection.overview import Overview
    from apot_export.inspection.thresholds import Thresholds
    from apot_export.inspection.widths import Widths

_LAYER = Column(key="layer", title="layer", left=True)
_NANO = 1000
"""Picojoules."""


def _count(number: float) -> str:
    return f"{number:,}"


def _digits(number: float) -> str:
    return f"{number:.4g}"


def _nanojoules(picojoules: float) -> str:
    return f"{picojoules / _NANO:,.1f}"


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
            Column(key="bytes", title="bytes", show=_count),
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
            shape = " x ".join(map(str, value["shape"]))
            yield name, f"{value['name']}: {value['type']} {shape}"
    if found.preprocessing:
        yield "images", _preprocessing(found.preprocessing)
    if found.classes:
        yield "classes", str(found.classes)
    if found.weights is not None and found.stored_bits is not None:
        kinds = ", ".join(f"{count} of {kind}" for kind, count in found.layers.items())
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
        nodes = ", ".join(f"{count} {name}" for name, count in model["nodes"].items())
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


# --- cost -----------------------------------------------------------------------------------------


def cost_view(path: Path, found: Cost) -> View:
    """Return what every layer costs, with the rows of a total."""
    from apot_export.inspection.cost import RULE, TABLES

    rows = [_cost_row(layer.to_json()) for layer in found.layers]
    summed = (
        {key: sum(row[key] for row in rows) for key in rows[0] if key != "layer"} if rows else {}
    )
    numbers = [
        Column(key="macs", title="MACs", show=_count),
        Column(key="additions", title="additions", show=_count),
        Column(key="shifts", title="shifts", show=_count),
        Column(key="multiplications", title="products", show=_count, leaves=8),
        Column(key="bits_moved", title="bits moved", show=_count, leaves=7),
    ]
    for place, table in enumerate(TABLES):
        for form, leaves in (("stored", 5), ("int8", 3), ("float32", 1)):
            numbers.append(
                Column(
                    key=f"{form} pJ {table.name}",
                    title=f"{form} nJ, {table.name}",
                    show=_nanojoules,
                    leaves=leaves + (0 if place else 1),
                )
            )
    if not any(layer.multiplications for layer in found.layers):
        numbers = [column for column in numbers if column.key != "multiplications"]
    return View(
        title=str(path),
        columns=(_LAYER, *numbers),
        rows=[*rows, {"layer": "all", **summed}],
        notes=(RULE, *(f"{table.name}: {table.source}." for table in TABLES)),
    )


def _cost_row(layer: Mapping[str, Any]) -> dict[str, Any]:
    names = ("layer", "macs", "additions", "shifts", "multiplications", "bits_moved")
    row = {name: layer[name] for name in names}
    forms = {"stored": "energy", "int8": "int8_energy", "float32": "float32_energy"}
    return row | {
        f"{form} pJ {table}": energy
        for form, key in forms.items()
        for table, energy in layer[key].items()
    }


def forms_view(found: Cost) -> View:
    """Return the whole network as stored, in int8 and in float32."""
    rows = []
    for form in found.forms:
        row: dict[str, Any] = {**dataclasses.asdict(form)}
        for table in form.energy:
            row |= {f"pJ {table}": form.energy[table], f"moving {table}": form.moving_energy[table]}
        rows.append(row)
    energies = [
        Column(key=f"{key} {table}", title=f"{title} nJ, {table}", show=_nanojoules, leaves=leaves)
        for table in found.forms[0].energy
        for key, title, leaves in (("pJ", "operations", 3), ("moving", "moving", 2))
    ]
    return View(
        columns=(
            Column(key="name", title="network", left=True),
            Column(key="bits_moved", title="bits moved", show=_count),
            Column(key="peak_bytes", title="peak bytes", show=_count),
            *energies,
        ),
        rows=rows,
        notes=(
            "Moving: all bits moved once, from or to a static memory of 1 MB, 64 at a time. Peak: "
            "activations, each kept while a node needs it.",
        ),
    )


# --- alphas, bits, integer ------------------------------------------------------------------------


def alphas_view(found: Thresholds) -> View:
    """Return clipping thresholds with bars."""
    largest = max((abs(layer.activation_alpha) for layer in found.layers), default=0.0)
    notes = []
    if not found.layers:
        is_multi_bit = found.family == families.MULTI_BIT.name
        kind = "multi-bit weights, see inspect bits" if is_multi_bit else "floats"
        notes.append(f"No layer has clipping thresholds: {kind}.")
    if any(layer.weight_bits is None for layer in found.layers):
        notes.append("Bits are unknown: a checkpoint does not hold them; say --bits N.")
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
            _LAYER,
            Column(key="weight_alpha", title="weight alpha", show="{:.4f}".format),
            Column(key="activation_alpha", title="activation alpha", show="{:.4f}".format),
            Column(key="weight_bits", title="weight bits"),
            Column(key="activation_bits", title="activation bits", leaves=2),
            Column(key="share", title="share", bar=True, leaves=1),
        ),
        rows=rows,
        notes=notes,
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
            _LAYER,
            Column(key="kind", title="stored as", left=True, leaves=2),
            Column(key="weights", title="weights", show=_count),
            *([Column(key="filters", title="vectors", show=_count)] if vectors else []),
            Column(key="bits", title="bits", show=_digits),
            Column(key="bytes", title="bytes", show=_count),
            Column(key="share", title="share of bytes", bar=True, leaves=1),
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
                Column(key=kind, title=kind, show=lambda n: _count(n) if n else "", leaves=leaves)
                for kind, leaves in zip(OPERATIONS, (0, 0, 3), strict=True)
            ),
            Column(key="bits", title="bits"),
            Column(key="smallest", title="smallest", show="{:.2g}".format, leaves=1),
            Column(key="largest", title="largest", show="{:.2g}".format, leaves=2),
        ),
        rows=rows,
        notes=(f"One image, without a multiplier: {totals}.",),
    )
