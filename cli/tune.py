"""`apot-export tune`: the fastest target of an export, measured on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from ._errors import reported
from ._options import Export, Force, General, chosen, printed

if TYPE_CHECKING:
    from apot_export.tuning import TuningResult

_INTERRUPTED = "Interrupted; the export is as it was."
_RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_NAMES = {"before": "the model before", "native": "native kernels (no ONNX model)"}


@dataclass(frozen=True)
class Machine:
    """What is measured, and how long."""

    PANEL: ClassVar[str] = "Machine"

    runtime: Annotated[Literal["onnxruntime", "openvino"], "What will run the model."] = (
        "onnxruntime"
    )
    device: Annotated[Literal["cpu", "cuda"], "cuda: ONNX Runtime alone."] = "cpu"
    threads: Annotated[
        int, typer.Option(min=0, help="Threads of one inference; 0: as many as the runtime takes.")
    ] = 0
    batch: Annotated[int, typer.Option(min=1, help="Images in every batch.")] = 1
    seconds: Annotated[float, typer.Option(min=1, help="Time to measure, about.")] = 60.0


def tune(
    export: Export = None,
    *,
    machine: Machine,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            rich_help_panel="Output",
            help="Directory to write to; default: the export itself, in place.",
        ),
    ] = None,
    force: Force = False,
    general: General,
) -> None:
    """Write the target that is the fastest on this machine.

    Rewrites model.onnx: the same integers, other function bodies. It is kept where no target is
    faster by more than noise. The native kernels race as well: they need no ONNX model.
    """
    with reported(general, interrupted=_INTERRUPTED):
        from ._progress import working

        export = chosen(export, "Tuning", quiet=general.quiet)
        with working(f"Tuning {export}", quiet=general.quiet) as work:
            from apot_export.tuning import tune as tune_export

            result = tune_export(export, output=output, force=force, progress=work, **vars(machine))
        if not printed(result, general, result.path):
            _print(result)


def _print(result: TuningResult) -> None:
    """Show the race, and what was written."""
    from rich.text import Text

    from ._render import console_of_output, facts_table, new_table

    console = console_of_output()
    threads = f"{result.threads} thread{'s' * (result.threads != 1)}"
    console.print(
        f"{result.path}: {_RUNTIMES[result.runtime]} {result.runtime_version} on {result.device}, "
        f"{threads if result.threads else 'as many threads as it takes'}, "
        f"{result.batch} image{'s' * (result.batch != 1)} a batch",
        style="bold",
        soft_wrap=True,
    )
    machine = ", ".join(filter(None, (result.cpu, result.gpu)))
    time = f"{result.seconds:.0f} s, {result.rounds} rounds"
    console.print(facts_table([("machine", machine), ("time", time)]))
    table = new_table("raced in turns", "ratio", "ms a batch")
    for name, ratio in result.ratios.items():
        label = _NAMES.get(name, f"target {name}")
        table.add_row(label, f"{ratio:.3f}", f"{result.milliseconds[name]:.2f}")
    console.print(table)
    if not result.written:
        console.print(
            Text.assemble(
                ("Kept the model that was there: ", "bold"),
                f"none was faster by more than the noise ({result.noise:.1%}).",
            )
        )
        return
    console.print(
        Text.assemble(
            (f"Wrote target {result.target}: ", "bold green"),
            f"{result.ratio:.2f} times as fast as before (noise {result.noise:.1%}); "
            f"{result.integers:,} integers equal the oracle's.",
        )
    )
    if result.verification_dropped:
        console.print("The verdict in the manifest was of the old model and is gone.")
    console.print("Run apot-export verify again.")
