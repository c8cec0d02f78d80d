"""`apot-export inspect`: what an export or a checkpoint holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from ._errors import reported
from ._groups import Command, with_groups
from ._options import Dataset, General, InProcess, Weights, chosen, printed

app = typer.Typer(no_args_is_help=True, help="Show what an export or a checkpoint holds.")


@app.callback()
def inspect() -> None:
    """Show what an export or a checkpoint holds."""


def _show(found: Any, general: General, render: Callable[[Any], None], *, plain: bool) -> None:
    """Print a result: as JSON, as lines of a training log, or as tables."""
    if printed(found, general):
        return
    if plain:
        for line in found.plain_lines():
            typer.echo(line)
    else:
        render(found)


@app.command("alphas", cls=Command)
@with_groups
def alphas(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Export directory, packed file or checkpoint; "
            "default: the newest export in or below this folder."
        ),
    ] = None,
    *,
    weights: Weights = None,
    bits: Annotated[int | None, "Bit-width of a checkpoint whose name does not say it."] = None,
    plain: Annotated[bool, "Print the lines of the family's own training log."] = False,
    in_process: InProcess = False,
    general: General,
) -> None:
    """Show the clipping thresholds of every quantized layer."""
    with reported(general, in_process=in_process):
        from apot_export.inspection.thresholds import thresholds

        from ._progress import working
        from ._render import print_thresholds

        path = chosen(path, "Inspecting", quiet=general.quiet)
        with working(f"Inspecting {path}", quiet=general.quiet):
            found = thresholds(path, bits=bits, weights=weights)
        _show(found, general, print_thresholds, plain=plain)


@app.command("bits", cls=Command)
@with_groups
def bits(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Export directory or packed file; default: the newest export in or below this "
            "folder."
        ),
    ] = None,
    *,
    plain: Annotated[bool, "Print the lines of the multi-bit training log."] = False,
    general: General,
) -> None:
    """Show bits and bytes of every layer's weights."""
    with reported(general):
        from apot_export.inspection.widths import layer_bits

        from ._render import print_bits

        found = layer_bits(chosen(path, "Inspecting", quiet=general.quiet))
        _show(found, general, print_bits, plain=plain)


@app.command("integer", cls=Command)
@with_groups
def integer(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Export directory; default: the newest export in or below this folder."
        ),
    ] = None,
    *,
    general: General,
) -> None:
    """Show operations and ranges of the integer network."""
    with reported(general):
        from apot_export.inspection.widths import integer_summary

        path = chosen(path, "Inspecting", quiet=general.quiet)
        found = integer_summary(path)
        if general.as_json:
            typer.echo(json.dumps(dict(found), indent=2))
        else:
            from ._render import print_integer

            print_integer(path, found)


@dataclass(frozen=True)
class Images:
    """The images that hypotheses are tried on."""

    PANEL: ClassVar[str] = "Data"

    dataset: Annotated[
        Dataset | None,
        "Try hypotheses on this dataset; default: the one that fits the network if --data is "
        "given, else none.",
    ] = None
    data: Annotated[
        Path | None, "Folder of the images; default: $APOT_EXPORT_DATA, else ./data."
    ] = None
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Use at most this many images, spread over the dataset; "
            "default: 2000 small or 200 large ones.",
        ),
    ] = None


@app.command("identify", cls=Command)
@with_groups
def identify(
    checkpoint: Annotated[
        Path, typer.Argument(help="The trained checkpoint (.pth.tar, .ckpt, .safetensors, ...).")
    ],
    *,
    weights: Weights = None,
    images: Images,
    in_process: InProcess = False,
    general: General,
) -> None:
    """Rank the bit-widths and level sets that CHECKPOINT may have.

    Its batch-norms remember means that only the true quantization predicts. With images, hypotheses
    are ranked by accuracy, too.
    """
    with reported(general, in_process=in_process):
        from ._progress import working

        with working(f"Identifying {checkpoint}", quiet=general.quiet) as work:
            from apot_export.inspection.identify import identify as identify_checkpoint

            found = identify_checkpoint(checkpoint, weights=weights, progress=work, **vars(images))
        if not printed(found, general):
            from ._render_identify import print_identification

            print_identification(found)
