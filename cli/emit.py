"""`apot-export emit`: projects for machines without Python, made of an export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ._errors import reported
from ._groups import Command, with_groups
from ._options import General

app = typer.Typer(
    no_args_is_help=True, help="Write memory images, SystemVerilog or golden vectors of an export."
)

_VECTORS = "Golden vectors"
Source = Annotated[Path, typer.Argument(metavar="EXPORT", help="Export directory.")]
Output = Annotated[
    Path,
    typer.Option("--output", "-o", rich_help_panel="Output", help="Directory to write."),
]
Images = Annotated[int, typer.Option(min=1, rich_help_panel=_VECTORS, help="How many images.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        rich_help_panel=_VECTORS,
        help="A .npy file of images as the network reads them; default: noise.",
    ),
]
Replace = Annotated[
    bool,
    typer.Option(
        "--force", rich_help_panel="Output", help="Replace what was emitted to this directory."
    ),
]


@app.callback()
def emit() -> None:
    """Write memory images, SystemVerilog or golden vectors of an export."""


def _print(found: dict[str, Any], general: General) -> None:
    if general.as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    files = found["files"]
    typer.echo(f"Wrote {len(files)} files ({sum(files.values()):,} bytes) to {found['path']}")


@app.command("rtl", cls=Command)
@with_groups
def rtl(
    export: Source,
    *,
    output: Output,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Name of a layer, which may be repeated; default: all layers of codes."),
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
    force: Replace = False,
    general: General,
) -> None:
    """Write SystemVerilog of EXPORT's layers, without a multiplier, with testbenches.

    Memory images of codes, thresholds and requantizers (.mem, .coe, .mif), a decoder, processing
    elements, an engine that runs a whole layer, golden vectors, and a Makefile for Icarus Verilog,
    Verilator and Yosys.
    """
    with reported(general):
        from apot_export.devices.rtl.emit import emit_rtl

        found = emit_rtl(
            export,
            output,
            layers=layer or (),
            lanes=lanes,
            images=images,
            partial=partial,
            data=data,
            force=force,
        )
        _print(found, general)
        if not general.as_json:
            typer.echo(f"Next: make -C {output} iverilog")


@app.command("vectors", cls=Command)
@with_groups
def vectors(
    export: Source,
    *,
    output: Output,
    layer: Annotated[str, typer.Option(help="Name of the layer.")],
    images: Images = 1,
    data: Data = None,
    force: Replace = False,
    general: General,
) -> None:
    """Write what a layer of EXPORT reads and makes: inputs, sums, outputs, all exact integers.

    As vectors.npz, as a C header, and as hexadecimal text.
    """
    with reported(general):
        from apot_export.devices.vectors import emit_vectors

        found = emit_vectors(export, output, layer=layer, images=images, data=data, force=force)
        _print(found, general)
