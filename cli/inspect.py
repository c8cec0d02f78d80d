"""`apot-export inspect`: what an export or a checkpoint holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ._errors import reported
from ._options import Debug, Json, Weights

app = typer.Typer(no_args_is_help=True, help="Show what an export or a checkpoint holds.")


@app.callback()
def inspect() -> None:
    """Show what an export or a checkpoint holds."""


def _chosen(path: Path | None) -> Path:
    """Return a path, by default the newest export's, which standard error then names."""
    if path is not None:
        return path
    from apot_export.artifacts.directory import find_newest

    newest = find_newest(Path())
    typer.echo(f"Inspecting {newest} (the newest export here)", err=True)
    return newest


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2))


@app.command("alphas")
def alphas(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Export directory, packed file or checkpoint; "
            "default: the newest export in or below this folder."
        ),
    ] = None,
    weights: Weights = None,
    bits: Annotated[
        int | None,
        typer.Option(help="Bit-width of a checkpoint whose name does not say it."),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Print the lines of the family's own training log.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the clipping thresholds of every quantized layer."""
    with reported(debug=debug):
        from apot_export.inspection.thresholds import thresholds

        found = thresholds(_chosen(path), bits=bits, weights=weights)
        if as_json:
            _print_json(found.to_json())
        elif plain:
            for line in found.plain_lines():
                typer.echo(line)
        else:
            from ._render import print_thresholds

            print_thresholds(found)


@app.command("bits")
def bits(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Export directory or packed file; default: the newest export in or below this "
            "folder."
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Print the lines of the multi-bit training log.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show bits and bytes of every layer's weights."""
    with reported(debug=debug):
        from apot_export.inspection.widths import layer_bits

        found = layer_bits(_chosen(path))
        if as_json:
            _print_json(found.to_json())
        elif plain:
            for line in found.plain_lines():
                typer.echo(line)
        else:
            from ._render import print_bits

            print_bits(found)


@app.command("integer")
def integer(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Export directory; default: the newest export in or below this folder."
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show operations and ranges of the integer network."""
    with reported(debug=debug):
        from apot_export.inspection.widths import integer_summary

        chosen = _chosen(path)
        found = integer_summary(chosen)
        if as_json:
            _print_json(dict(found))
        else:
            from ._render import print_integer

            print_integer(chosen, found)


@app.command("identify")
def identify(
    checkpoint: Annotated[
        Path, typer.Argument(help="The trained checkpoint (.pth.tar, .ckpt, .safetensors, ...).")
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Try hypotheses on cifar10, cifar100, mnist, imagenet or digits; "
            "default: the one that fits the network if --data is given, else none."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the images; default: $APOT_EXPORT_DATA, else ./data."),
    ] = None,
    weights: Weights = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Use at most this many images, spread over the dataset; "
            "default: 2000 small or 200 large ones.",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Rank the bit-widths and level sets that CHECKPOINT may have.

    Its batch-norms remember means that only the true quantization predicts. With images, hypotheses
    are ranked by accuracy, too.
    """
    with reported(debug=debug):
        from ._progress import image_progress

        with image_progress() as progress:
            from apot_export.inspection.identify import identify as identify_checkpoint

            found = identify_checkpoint(
                checkpoint,
                dataset=dataset,
                data=data,
                limit=limit,
                weights=weights,
                progress=progress,
            )
        if as_json:
            _print_json(found.to_json())
        else:
            from ._render_identify import print_identification

            print_identification(found)
