"""`apot-export verify`: an export against its PyTorch original."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from ._errors import reported
from ._options import Debug, Json

_FAIL = 1


def verify(
    export: Annotated[
        Optional[Path],  # noqa: UP045 - typer evaluates this on Python 3.10
        typer.Argument(help="Export directory; default: the newest one in or below this folder."),
    ] = None,
    dataset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="cifar10, cifar100, mnist, imagenet or digits; "
            "default: the one that fits the network."
        ),
    ] = None,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the images; default: $APOT_EXPORT_DATA, else ./data."),
    ] = None,
    checkpoint: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The original checkpoint; default: where the manifest says it was."),
    ] = None,
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Network of your own, PACKAGE.MODULE:FACTORY, if the export was made with one; "
            "it is imported and called.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu, for both sides.")] = "auto",
    backends: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Run the integer network on these, too, and compare every bit: two or more of "
            "numpy,ort-cpu,ort-cuda,c.",
        ),
    ] = None,
    limit: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Use this many images, spread evenly over the dataset."),
    ] = None,
    batch_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Images per batch; default: fits the image size."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Verify an export: PyTorch original, ONNX Runtime and oracle on the same images.

    Exit code 0: PASS, 1: FAIL, 2: could not run.
    """
    with reported(debug=debug):
        from apot_export.export_directory import find_newest

        from ._render import image_progress, print_report

        if export is None:
            export = find_newest(Path())
            typer.echo(f"Verifying {export} (the newest export here)", err=True)
        with image_progress() as progress:
            from apot_export.verification import verify as verify_export

            report = verify_export(
                export,
                dataset=dataset,
                data=data,
                checkpoint=checkpoint,
                model=model,
                device=device,
                backends=backends,
                limit=limit,
                batch_size=batch_size,
                progress=progress,
            )
        if as_json:
            typer.echo(json.dumps(report.to_json(), indent=2))
        else:
            print_report(report)
        if report.failures:
            raise typer.Exit(_FAIL)
