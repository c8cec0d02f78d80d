"""`apot-export emit`: projects for machines without Python, made of an export."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from ._errors import reported
from ._groups import Command, Group, with_groups
from ._options import General, parsed_bytes

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Write C, a C library, SystemVerilog or golden vectors of an export.",
)

_VECTORS = "Golden vectors"
Source = Annotated[Path, typer.Argument(metavar="EXPORT", help="Export directory.")]
Images = Annotated[int, typer.Option(min=1, rich_help_panel=_VECTORS, help="How many images.")]
Data = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=_VECTORS,
        help="A .npy file of images as the network reads them; default: the export's samples, "
        "then noise.",
    ),
]


@dataclass(frozen=True)
class Written:
    """Where a project is written."""

    PANEL: ClassVar[str] = "Output"

    output: Annotated[Path, typer.Option("--output", "-o", help="Directory to write.")]
    force: Annotated[bool, "Replace what was emitted to this directory."] = False


@dataclass(frozen=True)
class Device:
    """Memory of the device that a project is for."""

    PANEL: ClassVar[str] = "Device"

    flash: Annotated[
        int | None,
        typer.Option(
            parser=parsed_bytes,
            metavar="BYTES",
            help="Memory for code and constants, as 256k: an error where it is too little.",
        ),
    ] = None
    ram: Annotated[
        int | None,
        typer.Option(
            parser=parsed_bytes, metavar="BYTES", help="Memory for workspace and stack, as 64k."
        ),
    ] = None


@app.callback()
def emit() -> None:
    """Write C, a C library, SystemVerilog or golden vectors of an export."""


def _printed_whole(found: dict[str, Any], general: General) -> bool:
    """Print what was written, as JSON or briefly where that is wanted; tell whether more may be."""
    if general.as_json or general.quiet:
        typer.echo(json.dumps(found, indent=2) if general.as_json else found["path"])
        return False
    files = found["files"]
    typer.echo(f"Wrote {len(files)} files ({sum(files.values()):,} bytes) to {found['path']}")
    return True


@app.command("c", cls=Command)
@with_groups
def c(
    export: Source,
    *,
    written: Written,
    device: Device,
    images: Images = 2,
    data: Data = None,
    general: General,
) -> None:
    """Write a C99 project that runs EXPORT's integer network by additions and shifts.

    The network as constants at their bits, kernels without multiplication, samples with the logits
    that they must give, and a Makefile for this machine, RV32I, Cortex-M0+, M3 and M4.
    """
    with reported(general):
        from ._progress import working

        with working(f"Writing C of {export}", quiet=general.quiet):
            from apot_export.devices.c.emit import emit_c

            found = emit_c(
                export,
                written.output,
                images=images,
                data=data,
                force=written.force,
                **vars(device),
            )
        if _printed_whole(found, general):
            _print_steps(found)
            _print_next(written.output, "run-host")


def _print_next(folder: Path, target: str) -> None:
    typer.echo(f"Next: make -C {shlex.quote(str(folder))} {target}")


def _print_steps(found: dict[str, Any]) -> None:
    """Show what a C project takes, in all and by step."""
    from ._render import console_of_output, new_table, thousands

    typer.echo(
        f"Flash: {found['model_bytes']:,} bytes of constants and about {found['code_bytes']:,} of "
        f"code. RAM: {found['workspace_bytes']:,} bytes, and at most {found['stack_bytes']:,} of "
        f"stack. About {found['instructions'] / 1e6:,.1f} M instructions an image on RV32I."
    )
    table = new_table("step", "flash", "RAM", "adds", "shifts", "loads", "instructions", wide=True)
    for step in found["steps"]:
        sizes = (f"{step[size]:,}" for size in ("flash", "ram"))
        counts = (thousands(step[kind]) for kind in ("adds", "shifts", "loads", "instructions"))
        table.add_row(step["name"], *sizes, *counts)
    console_of_output().print(table)


@app.command("native", cls=Command)
@with_groups
def native(export: Source, *, written: Written, general: General) -> None:
    """Write libapot, a C library that runs EXPORT's float network as fast as the processor can.

    The native kernels' sources, the plan that the library opens, an example in C++, samples, and a
    Makefile that builds, runs and installs them.
    """
    with reported(general):
        from ._progress import working

        with working(f"Planning {export}", quiet=general.quiet):
            from apot_export.devices.native import emit_native

            found = emit_native(export, written.output, force=written.force)
        if _printed_whole(found, general):
            typer.echo(f"A run takes {found['workspace_bytes']:,} bytes for each thread.")
            _print_next(written.output, "run")


@app.command("rtl", cls=Command)
@with_groups
def rtl(
    export: Source,
    *,
    written: Written,
    layer: Annotated[
        list[str] | None, "Name of a layer, which may be repeated; default: all layers of codes."
    ] = None,
    lanes: Annotated[
        int,
        typer.Option(
            min=1,
            max=1024,
            help="Processing elements of a line, at most; as many as divide a group's outputs.",
        ),
    ] = 16,
    images: Images = 1,
    partial: Annotated[
        int,
        typer.Option(
            min=0,
            rich_help_panel=_VECTORS,
            help="Words of results of an image whose partial sums are written and compared.",
        ),
    ] = 16,
    data: Data = None,
    general: General,
) -> None:
    """Write SystemVerilog of EXPORT's layers, without a multiplier, with testbenches.

    Memory images of codes, thresholds and requantizers (.mem, .coe, .mif), a decoder, processing
    elements, an engine that runs a whole layer, golden vectors, and a Makefile for Icarus Verilog,
    Verilator and Yosys.
    """
    with reported(general):
        from ._progress import working

        with working(f"Writing SystemVerilog of {export}", quiet=general.quiet):
            from apot_export.devices.rtl.emit import emit_rtl

            found = emit_rtl(
                export,
                written.output,
                layers=layer or (),
                lanes=lanes,
                images=images,
                partial=partial,
                data=data,
                force=written.force,
            )
        if _printed_whole(found, general):
            _print_next(written.output, "iverilog")


@app.command("vectors", cls=Command)
@with_groups
def vectors(
    export: Source,
    *,
    written: Written,
    layer: Annotated[str, "Name of the layer."],
    images: Images = 1,
    data: Data = None,
    general: General,
) -> None:
    """Write what a layer of EXPORT reads and makes: inputs, sums, outputs, all exact integers.

    As vectors.npz, as a C header, and as hexadecimal text.
    """
    with reported(general):
        from ._progress import working

        with working(f"Writing vectors of {export}", quiet=general.quiet):
            from apot_export.devices.vectors import emit_vectors

            found = emit_vectors(
                export,
                written.output,
                layer=layer,
                images=images,
                data=data,
                force=written.force,
            )
        _printed_whole(found, general)
