"""From an export directory to one of another form, without the checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from apot_export.arguments import checked
from apot_export.artifacts.directory import (
    PACKED_MODEL,
    SAMPLE,
    check_files,
    found_from,
    of_another_model,
    read_manifest,
    write_export,
)
from apot_export.artifacts.onnx_model.lowering import PORTABLE
from apot_export.artifacts.packed import load_packed
from apot_export.artifacts.sample import read_sample
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.conversion.interface import is_published
from apot_export.conversion.output import Output
from apot_export.errors import ExportError
from apot_export.network.shown import Shown
from apot_export.original import families


@dataclass(frozen=True, kw_only=True, repr=False)
class ExportConversion(Shown):
    """What was written, and from which export."""

    path: Path
    """The export directory."""
    source: Path
    """The export whose packed file it was made from."""
    target: str
    """Runtime that the ONNX model is lowered for."""
    image_size: str
    """Of the ONNX model: "fixed" or "dynamic"."""
    integer: dict[str, Any] | None
    """What the manifest records about the integer network; None without one."""
    compressed: bool
    """Whether codes that get smaller by it are entropy-coded in the packed file."""
    files: dict[str, int]
    """Bytes of every file by name."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        return {**asdict(self), "path": str(self.path), "source": str(self.source)}

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "path", self.path
        yield "source", self.source
        yield "target", self.target
        yield "image size", self.image_size
        yield "bytes", f"{sum(self.files.values()):,} in {len(self.files)} files"


@checked()
def convert_export(
    export: str | PathLike[str],
    directory: str | PathLike[str] | None = None,
    *,
    target: str = PORTABLE,
    batch: int = 0,
    keep_functions: bool = False,
    dynamic_size: bool = False,
    opset: int = 0,
    integer: IntegerChoices | None = None,
    compress: bool = False,
    force: bool = False,
) -> ExportConversion:
    """Write an export with an ONNX model for another target, made from the packed file.

    The files are those that `convert` makes of the checkpoint, and the manifest keeps what it says
    of that. An integer network and compressed codes are kept.

    Args:
        export: The export directory.
        directory: The directory to write; None for one named after the export and its form, here.
        target: Runtime that the ONNX model is lowered for, as in `convert`.
        batch: Images in every batch of target "plain"; 0 for any number.
        keep_functions: Leave the `apot` functions of target "plain" in.
        dynamic_size: Leave the height and width of images open, where the graph allows it.
        opset: Operator set of the ONNX models, where an older one will do; 0 for the target's own.
        integer: How to write the all-integer network, too; fraction bits not given are calibrated.
        compress: Entropy-code the codes in the packed file; not beside an integer network.
        force: Replace an earlier export in `directory`.

    Raises:
        ApotExportError: With what is wrong with the export; nothing is left half-written.
    """
    started = time.perf_counter()
    options: dict[str, Any] = {"target": target, "batch": batch, "keep_functions": keep_functions}
    source = Path(export)
    manifest = read_manifest(source)
    recorded = None if integer else manifest.get("integer")
    if compress and recorded:
        raise _read_by_a_program(source)
    name = str(manifest.get("name", source.absolute().name))
    output = Output(
        folder=Path(directory or _default_folder(name, target, integer, compress=compress)),
        name=name,
        model={**options, "dynamic_size": dynamic_size, "opset": opset},
        integer=_as_recorded(recorded) if recorded else integer,
        compress=compress or (integer is None and manifest.get("compressed", False)),
        force=force,
    )
    written, form = _write(output, source, manifest, recorded)
    return ExportConversion(
        path=output.folder,
        source=source,
        target=target,
        image_size=output.image_size,
        integer=form,
        compressed=output.compress,
        files=written,
        seconds=time.perf_counter() - started,
    )


def _write(
    output: Output, source: Path, manifest: Mapping[str, Any], recorded: dict[str, Any] | None
) -> tuple[dict[str, int], dict[str, Any] | None]:
    """Write an export; return its files' bytes and what its manifest says of its integer network.

    Args:
        output: Where and in which form.
        source: The export that it is made from.
        manifest: Of the source.
        recorded: What the manifest says of the integer network, if that stays as it is.
    """
    output.require_possible()
    check_files(source, manifest)
    packed = load_packed(source / PACKED_MODEL)
    preprocessing = families.by_name(manifest["family"]).preprocessing
    sample = read_sample(source / SAMPLE) if SAMPLE in manifest["files"] else None
    made = output.files(
        packed.network,
        packed.provenance,
        preprocessing,
        None,
        published=is_published(manifest),
        sample=sample,
    )
    form = recorded or made.integer
    changed = {
        "checkpoint": found_from(output.folder, source, manifest["checkpoint"]),
        "integer": form,
        "compressed": output.compress or None,
        "interface": made.interface,
        "sample": made.sample,
    }
    content = of_another_model(manifest, output.model, changed)
    return write_export(output.folder, made.files, content, force=output.force), form


def _read_by_a_program(export: Path) -> ExportError:
    return ExportError(
        "The program of the export's integer network reads codes where they lie, so they cannot be "
        "compressed.",
        where=str(export),
        fix="leave out --compress, or convert the checkpoint without --integer",
    )


def _as_recorded(form: Mapping[str, Any]) -> IntegerChoices:
    """Return the choices that make an integer network as a manifest records it."""
    pixels = form["normalisation"] is not None
    return IntegerChoices(
        fraction_bits=form["fraction_bits"],
        input_bits=None if pixels else form["input_bits"],
        pixels=pixels,
    )


def _default_folder(
    name: str, target: str, integer: IntegerChoices | None, *, compress: bool
) -> Path:
    """Return a folder that is named after an export and what is new about it."""
    made = ["integer"] * (integer is not None) + ["compressed"] * compress
    if target != PORTABLE or not made:
        made.insert(0, target)
    return Path("_".join([name, *made]))
