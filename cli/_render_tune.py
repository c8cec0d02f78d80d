"""What tuning measured, as people read it in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from ._render import console_of_output, facts_table, new_table

if TYPE_CHECKING:
    from apot_export.tuning import TuningResult

_RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_NAMES = {"before": "the model before", "native": "native kernels (no ONNX model)"}


def print_tuning(result: TuningResult) -> None:
    """Show the race, and what was written."""
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
