"""`apot-export verify`: an export against its PyTorch original."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

from ._errors import reported
from ._options import Export, General, InProcess, Network, RunImages, Training, chosen, printed

if TYPE_CHECKING:
    from apot_export.verification import Report

_FAIL = 1
_INTERRUPTED = "Interrupted. Repeat the command with --resume to go on from what is finished."
_REPORTS = os.environ.get("RANK", "0") == "0"
"""Of several processes that torchrun launched, one reports."""


@dataclass(frozen=True)
class Images(RunImages):
    """The images that both compute, and outputs for them."""

    reference: Annotated[
        Path | None,
        "Outputs of your own code: an .npz file with images and logits, to which the "
        "export is held, too; it needs neither dataset nor checkpoint.",
    ] = None


@dataclass(frozen=True)
class Comparison:
    """What is compared, and where it runs."""

    PANEL: ClassVar[str] = "Comparison"

    checkpoint: Annotated[
        Path | None,
        "The original checkpoint; default: where the manifest says it was. Another file "
        "needs --bits or the like beside it, which state how it was trained.",
    ] = None
    device: Annotated[Literal["auto", "cuda", "cpu"], "Where the original and side ort run."] = (
        "auto"
    )
    sides: Annotated[
        str,
        "What is compared with the original, the export of the verdict first: any of "
        "ort, ort-cpu, ort-cuda, openvino, native, oracle, packed.",
    ] = "ort"
    backends: Annotated[
        str | None,
        "Run the integer network on these, too, and compare every bit: two or more of "
        "numpy, ort-cpu, ort-cuda, c.",
    ] = None
    ignore_record: Annotated[
        bool, "Do not fail where the accuracy is clearly below the one that the checkpoint records."
    ] = False
    resume: Annotated[bool, "Go on where an interrupted run of this kind ended."] = False
    attach: Annotated[
        bool,
        typer.Option("--attach/--no-attach", help="Write the verdict into the export's manifest."),
    ] = True


def verify(
    export: Export = None,
    *,
    shown: Images,
    comparison: Comparison,
    network: Network,
    training: Training,
    html: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="Output", help="Write the report as one self-contained page, too."
        ),
    ] = None,
    in_process: InProcess = False,
    general: General,
) -> None:
    """Verify an export against its original, on the same images.

    The original is the one that the export was made from. With options of convert that say how the
    checkpoint was trained (--bits, --method, ...), it is the one that they state.

    Exit code 0: PASS, 1: FAIL, 2: could not run. Several processes share the images under
    torchrun --nproc-per-node N --no-python apot-export verify ...
    """
    with reported(general, interrupted=_INTERRUPTED, in_process=in_process):
        from ._page import require_writable

        require_writable(html)
        options = {**shown.arguments(), **vars(comparison), **network.arguments()}
        report = _verified(
            export,
            quiet=general.quiet or not _REPORTS,
            choices=None if training == Training() else training.choices(),
            **options,
        )
        if _REPORTS:
            _show(report, html, general)
        if report.failures:
            raise typer.Exit(_FAIL)


def _verified(export: Path | None, *, quiet: bool, **options: Any) -> Report:
    from ._progress import working

    export = chosen(export, "Verifying", quiet=quiet)
    with working(f"Verifying {export}", quiet=quiet) as work:
        from apot_export.verification import verify as verify_export

        return verify_export(export, progress=work, **options)


def _show(report: Report, html: Path | None, general: General) -> None:
    from ._render_verify import print_report

    if html is not None:
        from apot_export.verification.page import render_page

        from ._page import write_text

        write_text(html, render_page(report))
    if not printed(report, general, report.verdict):
        print_report(report)
