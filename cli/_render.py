"""Results as people read them in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from apot_export.errors import visible
from apot_export.inspection.widths import operation_totals
from apot_export.original import families
from apot_export.presentation.numbers import in_bytes
from apot_export.presentation.words import LEVELS, SOURCES

if TYPE_CHECKING:
    from apot_export.conversion.convert_export import ExportConversion
    from apot_export.conversion.result import ConversionResult

_EVERYWHERE = "portable"
_LARGEST = "largest provable"
"""Source of fraction bits that no images called for."""
_WITHOUT_A_TERMINAL = 100
"""Columns where the output is no terminal: nothing is cut because a log has no width."""


def is_terminal() -> bool:
    """Tell whether results go to a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def console_of_output() -> Console:
    """Return a console for results: as wide as the terminal, or as a log."""
    width = None if is_terminal() else _WITHOUT_A_TERMINAL
    console = Console(highlight=False, markup=False, emoji=False, width=width)
    console.push_render_hook(_ShowsNames())
    return console


class _ShowsNames(RenderHook):
    """Prints names of files as they are, whatever they hold."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Visible(one) for one in renderables]


class _Visible:
    """Something whose characters a terminal shows and does not obey."""

    def __init__(self, shown: ConsoleRenderable) -> None:
        self._shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._shown, options):
            lines = segment.text.split("\n")
            text = segment.text if segment.control else "\n".join(map(visible, lines))
            yield Segment(text, segment.style, segment.control)


def new_table(name: str, *numbers: str, wide: bool = False) -> Table:
    """Return an empty table: a column of names, and columns of numbers aligned right.

    In 80 columns a `wide` one stands closer and breaks names: no number is cut.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0) if wide else (0, 1))
    table.add_column(name, no_wrap=not wide, overflow="fold" if wide else "ellipsis")
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def thousands(count: int) -> str:
    """Return a count of operations, short."""
    return f"{count / 1000:,.0f} k" if count else ""


def facts_table(facts: Iterable[tuple[str, str | Text]]) -> Table:
    """Return (name, value) pairs, one a line."""
    table = Table.grid(padding=(0, 2))
    for name, value in facts:
        table.add_row(Text(name, "dim"), value)
    return table


# --- convert --------------------------------------------------------------------------------------


def print_conversion(result: ConversionResult, seconds: float) -> None:
    """Show what was recognised in a checkpoint and what was written, by a clock on the wall."""
    console = console_of_output()
    console.print(Text.assemble(("Converted ", "bold green"), f"to {result.path}/"), soft_wrap=True)
    console.print(facts_table(_conversion_facts(result, seconds)))
    parts = new_table("quantization", "value", "source")
    parts.columns[1].justify = parts.columns[2].justify = "left"
    for part in result.assumptions:
        value, source = str(part["value"]), part["source"]
        parts.add_row(
            part["what"],
            LEVELS.get(value, value),
            Text(SOURCES.get(source, source), "yellow" if source == "assumption" else ""),
        )
    console.print(parts)
    table = new_table("file", "size", "of the weights in float32")
    for name, count in result.files.items():
        holds_weights = name.endswith((".onnx", ".safetensors"))
        share = f"{count / result.float32_bytes:.1%}" if holds_weights else ""
        table.add_row(name, in_bytes(count), share)
    console.print(table)


def print_export_conversion(result: ExportConversion) -> None:
    """Show what was written from an export."""
    console = console_of_output()
    says = (
        f"{result.source}/ to {result.path}/, target {result.target}, "
        f"{result.image_size} image size"
    )
    console.print(Text.assemble(("Converted ", "bold green"), says), soft_wrap=True)
    facts = [("packed file", "entropy-coded")] * result.compressed
    if result.integer is not None:
        facts += _integer_facts(result.integer)
    if facts:
        console.print(facts_table(facts))
    table = new_table("file", "size")
    for name, count in result.files.items():
        table.add_row(name, in_bytes(count))
    console.print(table)


def _conversion_facts(result: ConversionResult, seconds: float) -> Iterator[tuple[str, str | Text]]:
    yield "network", f"{result.architecture}, family {result.family}"
    for note in result.notes:
        yield "checkpoint", note
    yield from _weight_facts(result)
    if result.layer_bits:
        have = "has" if result.layer_bits == 1 else "have"
        yield "layers", f"{result.layer_bits} {have} other bits (as given)"
    if result.target != _EVERYWHERE:
        yield "target", result.target
    elif result.faster_on_cpus:
        yield "target", "portable; on CPUs --target cpu is about twice as fast"
    yield "image size", result.image_size
    if result.compressed:
        yield "packed file", "entropy-coded"
    if result.integer is not None:
        yield from _integer_facts(result.integer)
    loading = seconds - result.seconds
    yield "time", f"{seconds:.1f} s, {loading:.1f} s of it to load PyTorch and ONNX"


def _weight_facts(result: ConversionResult) -> Iterator[tuple[str, str | Text]]:
    stored = in_bytes(round(result.code_bits / 8))
    if result.family == families.MULTI_BIT.name:
        bits = f"{result.bits:.2f} sign vectors a group on average"
        yield "weights", f"{result.weights:,} in {stored}, {bits}"
        if result.weight_error:
            error = f"{result.weight_error:.2%}"
            yield "coordinates", f"sums of powers of two; relative weight error {error}"
    elif result.weights:
        density = f"{result.code_bits / result.weights:.2f} bits a weight"
        yield "codes", f"{result.weights:,} weights in {stored}: {density}"
    elif result.layer_bits:
        yield "codes", "none: no layer is quantized (as given)"
    if result.statistics is not None and result.weights:
        yield "batch-norm", _statistics_line(result.statistics)


def _statistics_line(found: dict[str, Any]) -> str | Text:
    """Say which weights the statistics of batch-norm support."""
    if not found["decisive"]:
        return "undecided about bits and level set of the weights"
    best = f"{found['weights']['bits']}-bit {found['weights']['method']}"
    if found["agrees"] is False:
        says = f"contradicts what was stated: its means are those of {best} weights"
        return Text(says, "yellow")
    return f"its means are those of {best} weights"


def _integer_facts(form: dict[str, Any]) -> Iterator[tuple[str, str]]:
    source = {
        "option": "as given",
        "calibration": f"agreement {form['agreement'] or 0:.1%} on calibration images",
        _LARGEST: "the most that cannot overflow",
    }[form["fraction_bits_from"]]
    totals = operation_totals(form)
    widest = max(count["bits"] for count in form["operations"].values())
    yield (
        "integer",
        f"{form['fraction_bits']} fraction bits ({source}), {form['input']} input; "
        + ", ".join(f"{total / 1e6:,.1f} M {kind}" for kind, total in totals.items())
        + f" of at most {widest} bits",
    )
    if form["fraction_bits_from"] == _LARGEST:
        yield (
            "calibration",
            "no images, or fewer bits did not agree on them; fewer may do in less memory: try "
            "--data FOLDER (images) or --fraction-bits N",
        )
