"""`apot-export tune`: the fastest target of an export, measured on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from ._errors import reported
from ._options import Debug, Json

_INTERRUPTED = "Interrupted; the export is as it was."


def tune(
    export: Annotated[
        Optional[Path],  # noqa: UP045 - typer evaluates this on Python 3.10
        typer.Argument(help="Export directory; default: the newest one in or below this folder."),
    ] = None,
    runtime: Annotated[
        str, typer.Option(help="What will run the model: onnxruntime or openvino.")
    ] = "onnxruntime",
    device: Annotated[str, typer.Option(help="cpu, or cuda (ONNX Runtime alone).")] = "cpu",
    threads: Annotated[
        int, typer.Option(min=0, help="Threads of one inference; 0: as many as the runtime takes.")
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images in every batch.")] = 1,
    seconds: Annotated[float, typer.Option(min=1, help="Time to measure, about.")] = 60.0,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", "-o", help="Directory to write to; default: the export itself, in place."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier export in the output directory.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure which target is fastest on this machine, and write its model into the export.

    Rewrites model.onnx: the same integers, other function bodies. It is kept where no target is
    faster by more than noise. The native kernels race as well: they need no ONNX model.
    """
    with reported(debug=debug, interrupted=_INTERRUPTED):
        from apot_export.artifacts.directory import find_newest

        from ._progress import image_progress
        from ._render_tune import print_tuning

        if export is None:
            export = find_newest(Path())
            typer.echo(f"Tuning {export} (the newest export here)", err=True)
        with image_progress() as progress:
            from apot_export.tuning import tune as tune_export

            result = tune_export(
                export,
                runtime=runtime,
                device=device,
                threads=threads,
                batch=batch,
                seconds=seconds,
                output=output,
                force=force,
                progress=progress,
            )
        if as_json:
            typer.echo(json.dumps(result.to_json(), indent=2))
        else:
            print_tuning(result)
