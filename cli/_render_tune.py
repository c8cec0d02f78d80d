"""What tuning measured, as people read it in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from ._render import console_of_output

if TYPE_CHECKING:
    from rich.console import Console

    from apot_export.tuning import GroupResult, TuningResult

_RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_MODELS = {"before": "the model before", "tuned": "layer by layer"}


def print_tuning(result: TuningResult) -> None:
    """Show the lowering of every kind of layer, the last race, and what was written."""
    console = console_of_output()
    place = result.place
    threads = f"{place.threads} thread{'s' * (place.threads != 1)}"
    console.print(
        f"{result.path}: {_RUNTIMES[place.runtime]} {result.version} on {place.device}, "
        f"{threads if place.threads else 'as many threads as it takes'}, "
        f"{place.batch} image{'s' * (place.batch != 1)} a batch",
        style="bold",
        soft_wrap=True,
    )
    facts = Table.grid(padding=(0, 2))
    facts.add_row(Text("machine", "dim"), ", ".join(filter(None, (result.cpu, result.gpu))))
    ended = "complete" if result.complete else "the time ended before all was tried"
    facts.add_row(Text("search", "dim"), f"{result.trials} trials, {ended}")
    facts.add_row(Text("time", "dim"), f"{result.seconds:.0f} s")
    console.print(facts)
    _print_groups(console, result)
    _print_race(console, result)
    _print_outcome(console, result)


def _print_groups(console: Console, result: TuningResult) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layers")
    table.add_column("kind", no_wrap=True)
    table.add_column("lowering", no_wrap=True)
    table.add_column("ratio with another", no_wrap=True)
    for group in result.groups:
        first, *others = group.layers
        more = f" and {len(others)} more" if others else ""
        choice = group.lowering if len(group.candidates) > 1 else Text("no choice", "dim")
        table.add_row(f"{first}{more}", group.kind, choice, _tried(group))
    console.print(table)


def _tried(group: GroupResult) -> str:
    return ", ".join(
        f"{lowering} {'refused' if ratio is None else f'{ratio:.3f}'}"
        for lowering, ratio in group.tried.items()
    )


def _print_race(console: Console, result: TuningResult) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("raced in turns")
    table.add_column("ratio", justify="right")
    table.add_column("ms a batch", justify="right")
    for name, ratio in result.ratios.items():
        label = _MODELS.get(name, f"target {name}")
        table.add_row(label, f"{ratio:.3f}", f"{result.milliseconds[name]:.2f}")
    console.print(table)


def _print_outcome(console: Console, result: TuningResult) -> None:
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
            ("Tuned: ", "bold green"),
            f"{result.ratio:.2f} times as fast as before (noise {result.noise:.1%}); "
            f"{result.integers:,} integers equal the oracle's.",
        )
    )
    if result.verification_dropped:
        console.print("The verdict in the manifest was of the old model and is gone.")
    console.print("Run apot-export verify again.")
