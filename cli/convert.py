"""`apot-export convert`: a checkpoint becomes an export directory."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from ._errors import reported
from ._options import (
    Force,
    General,
    InProcess,
    IntegerForm,
    Network,
    Training,
    given,
    printed,
)

if TYPE_CHECKING:
    from apot_export.conversion.convert_export import ExportConversion
    from apot_export.conversion.result import ConversionResult


@dataclass(frozen=True)
class Written:
    """What is written, and where."""

    PANEL: ClassVar[str] = "Output"

    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Export directory; default: named after the checkpoint, here; of an export, after "
            "it and its target.",
        ),
    ] = None
    target: Annotated[
        Literal["portable", "cpu", "cuda", "openvino", "plain"],
        "Runtime that the ONNX model is made fast for: cpu and cuda are ONNX Runtime's; "
        "every one runs in any. plain: float weights and old standard operators alone, for "
        "clients that know no functions.",
    ] = "portable"
    batch: Annotated[
        int, typer.Option(min=0, help="Images in every batch of target plain; 0: any number.")
    ] = 0
    keep_functions: Annotated[bool, "Leave the apot functions in the model of target plain."] = (
        False
    )
    dynamic_size: Annotated[
        bool,
        "Leave the height and width of the ONNX model's images open: targets portable, "
        "cuda and plain, for networks that average over the whole image or return images.",
    ] = False
    opset: Annotated[
        int,
        "Operator set of the ONNX models, where an older one will do; 0: 14 for target "
        "plain, 18 for others.",
    ] = 0
    compress: Annotated[
        bool, "Entropy-code the packed file's weights: smaller at rest, decoded when used."
    ] = False
    force: Force = False


def convert(
    context: typer.Context,
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="The trained checkpoint (.pth.tar, .ckpt, .safetensors, ...), or an export, to "
            "write another model of it."
        ),
    ],
    *,
    written: Written,
    network: Network,
    training: Training,
    trust_options: Annotated[
        bool,
        typer.Option(
            "--trust-options",
            rich_help_panel=Training.PANEL,
            help="Convert also where the checkpoint's batch-norms contradict the bits or level set "
            "that options or names state.",
        ),
    ] = False,
    form: IntegerForm,
    in_process: InProcess = False,
    general: General,
) -> None:
    """Convert CHECKPOINT into an ONNX model and a packed-weight file.

    Writes model.onnx, model.apot.safetensors and manifest.json; with --integer also
    model.integer.onnx. Of an export it writes another one, for another --target, with --integer or
    with --compress: from its packed file, without the checkpoint.
    """
    with reported(general, in_process=in_process):
        from apot_export.artifacts.directory import MANIFEST

        from . import _render
        from ._progress import working

        options = {**vars(written), "integer": form.choices()}
        directory = options.pop("output")
        if (checkpoint / MANIFEST).is_file():
            _require_options_of_exports(context, checkpoint)
            with working(f"Converting {checkpoint}", quiet=general.quiet):
                from apot_export.conversion.convert_export import convert_export

                again = convert_export(checkpoint, directory, **options)
                memory = _memory(again)
            if not printed(again, general, again.path, microcontroller=memory):
                _render.print_export_conversion(again)
                _print_memory(memory)
            return
        options |= network.arguments()
        with working(f"Converting {checkpoint}", quiet=general.quiet) as work:
            from apot_export.conversion.convert import convert as convert_checkpoint

            choices = training.choices()
            result = convert_checkpoint(
                checkpoint, directory, choices=choices, trust_options=trust_options, **options
            )
            seconds, memory = work.seconds, _memory(result)
        if not printed(result, general, result.path, microcontroller=memory):
            _render.print_conversion(result, seconds)
            _print_memory(memory)


def _memory(result: ConversionResult | ExportConversion) -> dict[str, int] | None:
    """Return what a C project of the integer network takes, in bytes; None where none is made."""
    from apot_export.devices.c.emit import memory_of
    from apot_export.errors import IntegerError

    if result.integer is None:
        return None
    try:
        found = memory_of(result.path)
    except IntegerError:  # limits that have no kernel in C
        return None
    return {name: size for name, size in found.items() if name.endswith("_bytes")}


def _print_memory(found: dict[str, int] | None) -> None:
    if found is not None:
        typer.echo(
            f"On a microcontroller (apot-export emit c): {found['workspace_bytes']:,} bytes of RAM "
            f"and {found['stack_bytes']:,} of stack, "
            f"{found['model_bytes'] + found['code_bytes']:,} of flash"
        )


def _require_options_of_exports(context: typer.Context, export: Path) -> None:
    """Raise `ExportError` for options that describe a checkpoint."""
    from apot_export.errors import ExportError

    groups = (Written, IntegerForm, General)
    possible = {field.name for group in groups for field in dataclasses.fields(group)}
    others = {name: flag for name, flag in given(context).items() if name not in possible}
    del others["checkpoint"]
    others.pop("in_process", None)
    if others:
        raise ExportError(
            "The weights of an export are codes already: no option can change them.",
            where=str(export),
            expected="--target, --batch, --keep-functions, --dynamic-size, --opset, --integer, "
            "--compress, -o, --force",
            got=", ".join(others.values()),
            fix="leave them out, or convert the checkpoint again",
        )
