"""Results as people read them in a terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from apot_export.conversion.result import ConversionResult
    from apot_export.inspection.thresholds import Thresholds
    from apot_export.inspection.widths import Widths

_FULL_PRECISION = 32
_EVERYWHERE = "portable"
MULTI_BIT = "alq"
"""The family whose weights are sums of scaled sign vectors."""
_BAR_WIDTH = 16
_WITHOUT_A_TERMINAL = 100
"""Columns where the output is no terminal: nothing is cut because a log has no width."""


def console_of_output() -> Console:
    """Return a console for results: as wide as the terminal, or as a log."""
    if sys.stdout is not None and sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=_WITHOUT_A_TERMINAL)


def _bytes(count: int) -> str:
    for unit, size in (("MB", 1_000_000), ("kB", 1_000)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


# --- convert --------------------------------------------------------------------------------------


def print_conversion(result: ConversionResult) -> None:
    """Show what a checkpoint was taken for and what was written."""
    console = console_of_output()
    levels = {"apot": "additive powers of two", "pot": "powers of two", "uniform": "uniform"}[
        result.method
    ]
    facts = Table.grid(padding=(0, 2))
    facts.add_row(Text("network", "dim"), f"{result.architecture}, family {result.family}")
    if result.family == MULTI_BIT:
        stored = _bytes(round(result.code_bits / 8))
        facts.add_row(
            Text("weights", "dim"),
            f"{result.weights:,} in {stored}, {result.bits:.2f} sign vectors a group on average",
        )
        if result.weight_error:
            facts.add_row(
                Text("coordinates", "dim"),
                f"sums of powers of two; relative weight error {result.weight_error:.2%}",
            )
    elif result.bits == _FULL_PRECISION:
        facts.add_row(
            Text("weights", "dim"),
            f"float32, first and last layer 8-bit (32 bits: {_source(result.bits_from)})",
        )
    else:
        facts.add_row(
            Text("levels", "dim"),
            f"{result.bits:g} bits ({_source(result.bits_from)}), "
            f"{levels} ({_source(result.method_from)})",
        )
        if result.activation_bits != result.bits:
            facts.add_row(Text("activations", "dim"), f"{result.activation_bits} bits (as given)")
        if result.layer_bits:
            facts.add_row(Text("layers", "dim"), f"{result.layer_bits} have other bits (as given)")
        if result.grid_from != "default":
            z = "" if result.z is None else f", Z = {result.z}"
            facts.add_row(Text("grid", "dim"), f"{result.grid} ({_source(result.grid_from)}){z}")
        packed = result.code_bits / 8
        facts.add_row(
            Text("codes", "dim"),
            f"{result.weights:,} weights in {_bytes(round(packed))}: "
            f"{result.code_bits / result.weights:.2f} bits a weight",
        )
    for name, text in _extras(result):
        facts.add_row(Text(name, "dim"), text)
    facts.add_row(Text("time", "dim"), f"{result.seconds:.2f} s")
    console.print(Text.assemble(("Converted ", "bold green"), f"to {result.path}/"), soft_wrap=True)
    console.print(facts)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("file")
    table.add_column("size", justify="right")
    table.add_column("of the checkpoint", justify="right")
    for name, count in result.files.items():
        table.add_row(name, _bytes(count), f"{count / result.checkpoint_bytes:.1%}")
    console.print(table)


def _extras(result: ConversionResult) -> Iterator[tuple[str, str]]:
    """Yield what was asked for beyond the usual."""
    if result.target != _EVERYWHERE:
        yield "target", result.target
    if result.compressed:
        yield "packed file", "entropy-coded"
    if result.integer is not None:
        yield "integer", _integer_line(result.integer)


def _integer_line(form: dict[str, Any]) -> str:
    source = {
        "option": "as given",
        "calibration": f"agreement {form['agreement'] or 0:.1%} on calibration images",
        "largest provable": "the most that cannot overflow",
    }[form["fraction_bits_from"]]
    operations = form["operations"].values()
    additions, shifts, comparisons = (
        sum(count[kind] for count in operations) for kind in ("additions", "shifts", "comparisons")
    )
    widest = max(count["bits"] for count in operations)
    return (
        f"{form['fraction_bits']} fraction bits ({source}), {form['input']} input; "
        f"{additions / 1e6:,.1f} M additions, {shifts / 1e6:,.1f} M shifts, "
        f"{comparisons / 1e6:,.1f} M comparisons of at most {widest} bits"
    )


def _source(source: str) -> str:
    return {
        "option": "as given",
        "file name": "from the file's name",
        "folder name": "from the folder's name",
        "network": "as its layers say",
        "checkpoint": "the checkpoint has no thresholds",
        "default": "nothing said otherwise",
    }[source]


# --- inspect --------------------------------------------------------------------------------------


def print_thresholds(found: Thresholds) -> None:
    """Show clipping thresholds as a table with bars."""
    console = console_of_output()
    console.print(f"{found.source}: family {found.family}", style="bold", soft_wrap=True)
    if not found.layers:
        kind = "multi-bit weights, see inspect bits" if found.family == MULTI_BIT else "floats"
        console.print(f"No layer has clipping thresholds: {kind}.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for title in ("weight alpha", "activation alpha", "bits (w/a)"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("activation alpha, relative")
    bar = "█" if console.encoding.startswith("utf") else "#"
    largest = max(abs(layer.activation_alpha) for layer in found.layers)
    for layer in found.layers:
        share = abs(layer.activation_alpha) / largest if largest else 0.0
        table.add_row(
            layer.layer,
            f"{layer.weight_alpha:.4f}",
            f"{layer.activation_alpha:.4f}",
            f"{layer.weight_bits or '?'}/{layer.activation_bits or '?'}",
            Text(bar * max(1, round(share * _BAR_WIDTH)), "cyan"),
        )
    console.print(table)
    if any(layer.weight_bits is None for layer in found.layers):
        console.print("Bits are unknown: a checkpoint does not hold them; say --bits N.")


def print_bits(found: Widths) -> None:
    """Show the bits of every layer's weights as a table with bars."""
    console = console_of_output()
    console.print(f"{found.source}", style="bold", soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    table.add_column("stored as", no_wrap=True)
    for title in ("weights", "vectors", "bits", "bytes"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("share of bytes")
    bar = "█" if console.encoding.startswith("utf") else "#"
    total = sum(layer.stored_bits for layer in found.layers)
    for layer in found.layers:
        share = layer.stored_bits / total if total else 0.0
        table.add_row(
            layer.layer,
            layer.kind,
            f"{layer.weights:,}",
            "" if layer.filters is None else f"{layer.filters:,}",
            f"{layer.bits:.4g}",
            f"{math.ceil(layer.stored_bits / 8):,}",
            Text(bar * round(share * _BAR_WIDTH), "cyan"),
        )
    if all(layer.filters is None for layer in found.layers):
        table.columns.pop(3)
    console.print(table)
    weights = sum(layer.weights for layer in found.layers)
    console.print(
        f"{weights:,} weights of {found.average:.4g} bits on average, "
        f"{_bytes(math.ceil(total / 8))} in all"
    )


def print_integer(path: Path, form: Mapping[str, Any]) -> None:
    """Show the integer network's operations and ranges as a table."""
    console = console_of_output()
    console.print(f"{path}", style="bold", soft_wrap=True)
    console.print(
        f"{form['fraction_bits']} fraction bits, {form['input']} input of {form['input_bits']}; "
        f"one unit of a logit is {float(Fraction(form['logit_scale'])):.3g}"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("value", no_wrap=True)
    kinds = ("additions", "shifts", "comparisons")
    for title in (*kinds, "bits", "smallest", "largest"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, counts in form["operations"].items():
        low, high = form["ranges"][name]
        table.add_row(
            name,
            *(f"{counts[kind] / 1000:,.0f} k" if counts[kind] else "" for kind in kinds),
            str(counts["bits"]),
            f"{low:.3g}",
            f"{high:.3g}",
        )
    console.print(table)
    totals = {kind: sum(c[kind] for c in form["operations"].values()) for kind in kinds}
    console.print(
        f"One image, without a multiplier: {totals['additions']:,} additions, "
        f"{totals['shifts']:,} shifts, {totals['comparisons']:,} comparisons."
    )
