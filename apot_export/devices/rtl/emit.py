"""`apot-export emit rtl`: memory images, SystemVerilog and testbenches of a network's layers."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from apot_export.devices.export import OpenExport, open_export
from apot_export.devices.rtl._golden import golden_files
from apot_export.devices.rtl._memories import memory_files
from apot_export.devices.rtl._plan import LayerPlan, plan_layer
from apot_export.devices.rtl._sources import engine_sources, layer_sources, project_sources
from apot_export.devices.vectors import chosen_images, identifier, layer_vectors
from apot_export.devices.writing import require_free, write_project
from apot_export.errors import ExportError
from apot_export.network import CodedLayer


def emit_rtl(
    export: str | PathLike[str],
    directory: str | PathLike[str],
    *,
    layers: Sequence[str] = (),
    lanes: int = 16,
    images: int = 1,
    partial: int = 16,
    data: str | PathLike[str] | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write memory images, SystemVerilog, testbenches and golden vectors of layers of codes.

    Args:
        export: The export directory.
        directory: The directory to write.
        layers: Names of the layers; none for all layers of codes.
        lanes: Processing elements of a line, at most: it gets as many as divide a group's outputs.
        images: Images of the golden vectors.
        partial: Words of results of an image whose partial sums are written and compared.
        data: A .npy file of images as the network reads them; None: samples, then noise.
        force: Replace an earlier project in `directory`.

    Returns:
        The stable JSON form: what was written, with every layer's widths, cycles and bits.

    Raises:
        ApotExportError: With what is wrong; nothing is left half-written.
    """
    path = Path(directory)
    require_free(path, force=force)
    opened = open_export(export)
    read = chosen_images(opened.network, images, Path(data) if data else None, opened.path)
    files, facts = project(opened, read, layers=layers, lanes=lanes, partial=partial)
    summary = {"export": str(export), "images": images, "layers": facts}
    return write_project(path, files, summary, force=force)


def project(
    opened: OpenExport, images: NDArray[Any], *, layers: Sequence[str], lanes: int, partial: int
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the contents of a project's files by name, and its numbers by layer: see `emit_rtl`.

    `images` are what the network reads, [N, channels, height, width].
    """
    files: dict[str, bytes] = {}
    plans = []
    for layer in layers or _layers_of_codes(opened):
        plan = plan_layer(opened.coded, opened.network, layer, lanes=lanes)
        made = _layer_files(opened, plan, images, partial)
        if made.keys() & files.keys():
            raise ExportError(
                "Two layers have names that make the same module.",
                where=layer,
                fix="name one of the two alone with --layer",
            )
        files |= made
        plans.append(plan)
    files |= {**engine_sources(), **project_sources(plans)}
    return files, {plan.name: _facts(plan) for plan in plans}


def _layers_of_codes(opened: OpenExport) -> list[str]:
    names = [name for name, layer in opened.coded.layers.items() if isinstance(layer, CodedLayer)]
    if not names:
        raise ExportError(
            "The network has no layer of codes.",
            where=str(opened.path),
            got="weights that are sums of scaled sign vectors",
            fix="apot-export emit c takes such networks",
        )
    return names


def _layer_files(
    opened: OpenExport, plan: LayerPlan, images: NDArray[Any], partial: int
) -> dict[str, bytes]:
    """Return the contents of a layer's files by name."""
    vectors = layer_vectors(opened.network, plan.name, images)
    made = {
        **layer_sources(plan, images=len(images), partial=partial),
        **memory_files(plan),
        **golden_files(plan, vectors, partial),
    }
    return {f"{identifier(plan.name)}{name}": content for name, content in made.items()}


def _facts(plan: LayerPlan) -> dict[str, Any]:
    geometry, records = plan.geometry, plan.records
    return {
        "lanes": plan.lanes,
        "code_bits": plan.codebook.bits,
        "input_bits": plan.x_bits,
        "sum_bits": plan.sum_bits,
        "result_bits": records.result_bits,
        "results": ("sums", "levels", "requantized")[records.mode],
        "cycles": plan.cycles,
        "code_memory_bits": plan.codes.size * plan.codebook.bits,
        "record_memory_bits": records.words.size * records.bits if records.mode else 0,
        "input_memory_bits": plan.numbers * plan.x_bits,
        "products": geometry.groups * geometry.outputs * geometry.positions * geometry.taps,
    }
