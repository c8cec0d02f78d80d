"""`apot-export convert`: a checkpoint becomes an export directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from ._errors import reported
from ._options import Debug, Json


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="The trained checkpoint (.pth.tar).")],
    output: Annotated[
        Optional[Path],  # noqa: UP045 - typer evaluates this on Python 3.10
        typer.Option(
            "--output", "-o", help="Export directory; default: named after the checkpoint, here."
        ),
    ] = None,
    bits: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            help="Bit-width it was trained with; default: from its file or folder name.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Level set: apot or uniform; default: from its name, else apot.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier export in the output directory.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert CHECKPOINT into an ONNX model and a packed-weight file.

    Writes model.onnx, model.apot.safetensors and manifest.json.
    """
    with reported(debug=debug):
        from apot_export.conversion import convert as convert_checkpoint

        result = convert_checkpoint(checkpoint, output, bits=bits, method=method, force=force)
        if as_json:
            typer.echo(json.dumps(result.to_json(), indent=2))
        else:
            from ._render import print_conversion

            print_conversion(result)
