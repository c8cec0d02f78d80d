"""Results as people read them in a terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from apot_export.original import families

from ._errors import visible

if TYPE_CHECKING:
    from apot_export.conversion.convert_export import ExportConversion
    from apot_export.conversion.result import ConversionResult
    from apot_export.inspection.thresholds import Thresholds
    from apot_export.inspection.widths import Widths

_EVERYWHERE = "portable"
_LEVELS = {"apot": "additive powers of two", "pot": "powers of two", "uniform": "uniform"}
_SOURCES = {"option": "as given", "assumption": "assumed"}
"""Sources of a part of the quantization that read otherwise than their names."""
_LARGEST = "largest provable"
"""Source of fraction bits that no images called for."""
_OPERATIONS = ("additions", "shifts", "comparisons")
_BAR_WIDTH = 16
_WITHOUT_A_TERMINAL = 100
"""Columns where the output is no terminal: nothing is cut because a log has no width."""


def console_of_output() -> Console:
    """Return a console for results: as wide as the terminal, or as a log."""
    is_log = sys.stdout is None or not sys.stdout.isatty()
    console = Console(
        highlight=False, markup=False, emoji=False, width=_WITHOUT_A_TERMINAL if is_log else None
    )
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


def new_table(name: str, *numbers: str) -> Table:
    """Return an empty table: a column of names, and columns of numbers aligned right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(name, no_wrap=True)
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def facts_table(facts: Iterable[tuple[str, str | Text]]) -> Table:
    """Return (name, value) pairs, one a line."""
    table = Table.grid(padding=(0, 2))
    for name, value in facts:
        table.add_row(Text(name, "dim"), value)
    return table


def _bar(console: Console, share: float, least: int = 0) -> Text:
    """Return a bar for a share in [0, 1], of at least `least` characters."""
    block = "█" if console.encoding.startswith("utf") else "#"
    width = _BAR_WIDTH if console.width >= _WITHOUT_A_TERMINAL else _BAR_WIDTH // 2
    return Text(block * max(least, round(share * width)), "cyan")


def _bytes(count: int) -> str:
    for unit, size in (("MB", 1_000_000), ("kB", 1_000)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


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
            _LEVELS.get(value, value),
            Text(_SOURCES.get(source, source), "yellow" if source == "assumption" else ""),
        )
    console.print(parts)
    table = new_table("file", "size", "of the weights in float32")
    for name, count in result.files.items():
        holds_weights = name.endswith((".onnx", ".safetensors"))
        share = f"{count / result.float32_bytes:.1%}" if holds_weights else ""
        table.add_row(name, _bytes(count), share)
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
        table.add_row(name, _bytes(count))
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
    yield "image size", result.image_size
    if result.compressed:
        yield "packed file", "entropy-coded"
    if result.integer is not None:
        yield from _integer_facts(result.integer)
    loading = seconds - result.seconds
    yield "time", f"{seconds:.1f} s, {loading:.1f} s of it to load PyTorch and ONNX"


def _weight_facts(result: ConversionResult) -> Iterator[tuple[str, str | Text]]:
    stored = _bytes(round(result.code_bits / 8))
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
    totals = _operation_totals(form)
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


def _operation_totals(form: Mapping[str, Any]) -> dict[str, int]:
    """Return how many operations of each kind the integer network takes for one image."""
    counts = form["operations"].values()
    return {kind: sum(count[kind] for count in counts) for kind in _OPERATIONS}


# --- inspect --------------------------------------------------------------------------------------


def print_thresholds(found: Thresholds) -> None:
    """Show clipping thresholds as a table with bars."""
    console = console_of_output()
    console.print(f"{found.source}: family {found.family}", style="bold", soft_wrap=True)
    if not found.layers:
        is_multi_bit = found.family == families.MULTI_BIT.name
        kind = "multi-bit weights, see inspect bits" if is_multi_bit else "floats"
        console.print(f"No layer has clipping thresholds: {kind}.")
        return
    table = new_table("layer", "weight alpha", "activation alpha", "bits (w/a)")
    table.add_column("share")
    largest = max(abs(layer.activation_alpha) for layer in found.layers)
    for layer in found.layers:
        share = abs(layer.activation_alpha) / largest if largest else 0.0
        table.add_row(
            layer.layer,
            f"{layer.weight_alpha:.4f}",
            f"{layer.activation_alpha:.4f}",
            f"{layer.weight_bits or '?'}/{layer.activation_bits or '?'}",
            _bar(console, share, least=1),
        )
    console.print(table)
    if any(layer.weight_bits is None for layer in found.layers):
        console.print("Bits are unknown: a checkpoint does not hold them; say --bits N.")


def print_bits(found: Widths) -> None:
    """Show the bits of every layer's weights as a table with bars."""
    console = console_of_output()
    console.print(f"{found.source}", style="bold", soft_wrap=True)
    vectors = any(layer.filters is not None for layer in found.layers)
    columns = ("weights", "vectors", "bits", "bytes") if vectors else ("weights", "bits", "bytes")
    table = new_table("layer", "stored as", *columns)
    table.columns[1].justify = "left"
    table.add_column("share of bytes")
    total = sum(layer.stored_bits for layer in found.layers)
    for layer in found.layers:
        share = layer.stored_bits / total if total else 0.0
        table.add_row(
            layer.layer,
            layer.kind,
            f"{layer.weights:,}",
            *(["" if layer.filters is None else f"{layer.filters:,}"] if vectors else []),
            f"{layer.bits:.4g}",
            f"{math.ceil(layer.stored_bits / 8):,}",
            _bar(console, share),
        )
    console.print(table)
    weights = sum(layer.weights for layer in found.layers)
    console.print(
        f"{weights:,} weights in {_bytes(math.ceil(total / 8))}: "
        f"{total / weights:.2f} bits a weight as stored, {found.average:.4g} as trained"
    )


def print_integer(path: Path, form: Mapping[str, Any]) -> None:
    """Show the integer network's operations and ranges as a table."""
    console = console_of_output()
    console.print(f"{path}", style="bold", soft_wrap=True)
    console.print(
        f"{form['fraction_bits']} fraction bits, {form['input']} input of {form['input_bits']}; "
        f"one unit of a logit is {float(Fraction(form['logit_scale'])):.3g}"
    )
    table = new_table("value", "additions", "shifts", "compares", "bits", "smallest", "largest")
    # 80 columns hold it, with names of one quantized layer in a line.
    table.padding = (0, 1, 0, 0)
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    for name, counts in form["operations"].items():
        low, high = form["ranges"][name]
        table.add_row(
            name,
            *(f"{counts[kind] / 1000:,.0f} k" if counts[kind] else "" for kind in _OPERATIONS),
            str(counts["bits"]),
            f"{low:.2g}",
            f"{high:.2g}",
        )
    console.print(table)
    totals = ", ".join(f"{total:,} {kind}" for kind, total in _operation_totals(form).items())
    console.print(f"One image, without a multiplier: {totals}.")
