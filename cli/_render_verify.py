"""A verification as people read it in a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from apot_export.original.families import MULTI_BIT

from ._render import console_of_output, new_table

if TYPE_CHECKING:
    from apot_export.verification import Divergence, LevelComparison, Report, Side
    from apot_export.verification.proof.sample import SampleComparison
    from apot_export.verification.report import (
        RecordComparison,
        ReferenceComparison,
        SideProof,
        SizeComparison,
        SkippedImage,
    )

ACCURACY = ("top-1", "95 % interval", "top-5")
_SHOWN_NAMES = 5
_NARROW = 80
"""Columns of a terminal in which the table of sides stands closer."""
_YOURS = "your outputs"
_OK, _WARNING, _FAIL = Text("ok", "green"), Text("!", "yellow"), Text("FAIL", "bold red")
_SIDE_NAMES = {
    "ort-cpu": "ONNX Runtime",
    "ort-cuda": "ONNX Runtime on CUDA",
    "openvino": "OpenVINO",
    "native": "native kernels",
    "oracle": "the oracle",
    "packed": "the packed file's reader",
}


def print_report(report: Report) -> None:
    """Show a verification: both sides, the proofs, the verdict."""
    console = console_of_output()
    settings = report.settings
    console.print(
        f"{report.path}: {settings['architecture']}, {report.images:,} images of {report.dataset} "
        f"on {settings['device']}",
        style="bold",
        soft_wrap=True,
    )
    if settings["original"] and settings["original"]["stated"]:
        console.print(Text(_stated(settings["original"])), soft_wrap=True)
    console.print(_sides(report, wide=console.width <= _NARROW))
    held_to = "the packed file" if "baseline" in settings else "the original"
    for side in report.sides:
        if side.flips is not None:
            console.print(
                f"{side.flips.original_only} images are right by {held_to} alone, "
                f"{side.flips.export_only} by {_SIDE_NAMES[side.name]} alone (McNemar: "
                f"p = {side.flips.probability:.2g})."
            )
    console.print()
    checks = Table.grid(padding=(0, 2))
    for mark, name, text in _checks(report):
        checks.add_row(mark, name, Text(text))
    console.print(checks)
    console.print()
    styles = {"PASS": "bold green", "FAIL": "bold red"}
    console.print(Text(report.verdict, styles.get(report.verdict, "bold yellow")))
    for failure in report.failures:
        console.print(Text(_on_lines(failure)), soft_wrap=True)
    if report.divergence is not None:
        _print_divergence(console, report.divergence)
    _print_skipped(console, report.skipped)
    for note in report.notes:
        console.print(Text(f"Note: {note}", "yellow"), soft_wrap=True)


def _on_lines(failure: str) -> str:
    """Return a failure, with each of several places that it names on a line of its own."""
    what, _, places = failure.partition(": ")
    each = places.split("; ")
    return "\n    ".join([f"  {what}:", *each]) if len(each) > 1 else f"  {failure}"


def _print_skipped(console: Console, skipped: Sequence[SkippedImage]) -> None:
    if skipped:
        console.print(f"{len(skipped)} images could not be read and were skipped:")
    for image in skipped[:_SHOWN_NAMES]:
        console.print(Text(f"  {image.name}: {image.reason}"), soft_wrap=True)
    if len(skipped) > _SHOWN_NAMES:
        console.print("  ... (all of them in --json)")


def _stated(original: Mapping[str, Any]) -> str:
    """Say which original was stated, by its file and by what is not the default."""
    checkpoint, model = original["checkpoint"], original["model"]
    what = "the network in memory"
    if checkpoint is not None:
        what = f"{checkpoint} (SHA-256 {original['checkpoint_sha256'][:12]})"
    if model is not None:
        what += f", {model['factory']}"
    choices = dict(original["choices"])
    if "layer_bits" in choices:
        choices["layer_bits"] = ", ".join(
            "{pattern}={weight_bits}/{activation_bits}".format(**layer)
            for layer in choices["layer_bits"]
        )
    stated = "; ".join(f"{name} {value}" for name, value in choices.items())
    return f"Held to the original that you stated: {what}; {stated}"


def _sides(report: Report, *, wide: bool) -> Table:
    settings = report.settings
    several = len(report.sides) > 1
    table = new_table("", *ACCURACY, "images/s", *(["agreement"] if several else []), wide=wide)
    table.columns[0].no_wrap = False

    def add(name: str, side: Side, agreement: str) -> None:
        speed = f"{side.images_per_second:,.0f}" if name != _YOURS else "-"
        table.add_row(name, *accuracy_cells(side), speed, *([agreement] if several else []))

    add(_held_to(settings), report.original, "")
    for position, side in enumerate(report.sides):
        name = _SIDE_NAMES[side.name]
        if side.name.startswith("ort"):
            name = f"{name.replace('ONNX Runtime', 'ONNX Runtime ' + settings['onnxruntime'])}"
        add(f"{name}, the export" if position == 0 else name, side.side, f"{side.agreement:.2%}")
    return table


def accuracy_cells(side: Side) -> list[str]:
    """Return what stands below `ACCURACY`."""
    if side.top1 is None or side.top5 is None or side.top1_interval is None:
        return ["-"] * len(ACCURACY)
    low, high = side.top1_interval
    return [f"{side.top1:.2%}", f"{low:.1%} - {high:.1%}", f"{side.top5:.2%}"]


def _print_divergence(console: Console, found: Divergence) -> None:
    place = f" at {list(found.place)}" if found.place else ""
    channel = "" if found.channel is None else f", channel {found.channel}"
    console.print(Text(f"First divergence: {found.kind} of {found.layer}{channel}{place}", "bold"))
    if found.export is not None and found.original is not None:
        console.print(f"  {found.export:.9g} instead of {found.original:.9g}")
    cause = f"probable cause: {found.cause}. " if found.cause else ""
    console.print(Text(f"  {cause}{found.evidence}"), soft_wrap=True)


def _held_to(settings: Mapping[str, Any]) -> str:
    """Return what the sides are compared with."""
    if "baseline" in settings:
        return f"the packed file, {_SIDE_NAMES[settings['baseline']]}"
    if settings["original"] is None:
        return "your outputs"
    return f"PyTorch {settings['torch']}, {_original(settings)}"


def _original(settings: Mapping[str, Any]) -> str:
    if settings["alpha_terms"]:
        return f"coordinates rounded to {settings['alpha_terms']} powers of two"
    return "the original"


def _compared_weights(report: Report) -> str:
    if report.settings["original"] is None:
        return "ONNX and packed file; not compared with the checkpoint"
    return "packed file and ONNX"


def _exactness(report: Report) -> str:
    if report.settings["family"] == MULTI_BIT.name:
        return "up to the order of adding their sign vectors"
    if report.settings["unsigned_zeros"]:
        return "bit for bit, zeros without signs"
    return "bit for bit"


def _yardsticks(report: Report) -> str:
    return ", ".join(
        f"{yardstick.agreement:.2%} (other {yardstick.name})"
        if yardstick.name != "TF32"
        else f"{yardstick.agreement:.2%} (with TF32)"
        for yardstick in report.yardsticks
    )


def _furthest(levels: LevelComparison) -> str:
    if not levels.differing:
        return ""
    furthest = max(layer.largest_distance for layer in levels.layers)
    if not math.isfinite(furthest):
        return ", some of them levels that the original does not have"
    return f" (furthest from its decision point: {furthest:,.0%} of the bound)"


def _reference(found: ReferenceComparison) -> str:
    original = ""
    if found.original_agreement is not None and found.original_equal is not None:
        original = (
            f"; by the rebuilt original for {found.original_agreement:.2%} and "
            f"{found.original_equal:.2%}"
        )
    return (
        f"your class is reproduced for {found.agreement:.2%} of {found.images:,} images, your "
        f"outputs up to rounding for {found.equal:.2%}{original}"
    )


def _sample(found: SampleComparison) -> str:
    integers = f", {found.integers} integers compared" if found.integers else ""
    return (
        f"{found.inputs} inputs ({found.source}), outputs as stated (largest difference "
        f"{found.largest_difference:.1e}{integers})"
        if not found.failures
        else "; ".join(found.failures)
    )


def _record(record: RecordComparison, settings: Mapping[str, Any]) -> str:
    low, high = record.interval
    where = "manifest" if settings["original"] is None else "checkpoint"
    return (
        f"{record.key} {record.recorded:.2%} in the {where}; measured {record.measured:.2%} "
        f"(99.9 % interval {low:.1%} - {high:.1%})"
    )


def _another_size(found: SizeComparison) -> str:
    integers, levels = found.accumulators, found.levels
    floats = integers.values_compared + levels.values_compared
    outside = integers.values_outside + levels.values_outside
    return (
        f"on random images of {found.size}: {integers.mismatches:,} of {integers.compared:,} "
        f"integers differ; {levels.unexplained:,} of {levels.compared:,} levels and {outside:,} of "
        f"{floats:,} floats beyond float rounding"
    )


def _side_proof(found: SideProof, report: Report) -> str:
    """Say what was found of a side; of the ONNX model in ONNX Runtime the rows above say most."""
    levels, integers, logits = found.levels, found.accumulators, found.logits
    says = f"{logits.explained:,} of {logits.images:,} outputs are those that proven levels make"
    if levels == report.levels and integers == report.accumulators:
        return says
    outside = levels.values_outside + integers.values_outside
    return (
        f"{levels.unexplained:,} of {levels.compared:,} levels and {outside:,} of "
        f"{levels.values_compared + integers.values_compared:,} floats beyond float rounding, "
        f"{integers.mismatches:,} of {integers.compared:,} integers differ; {says}"
    )


def _checks(report: Report) -> Iterator[tuple[Text, str, str]]:
    """Yield a mark, a name and what was found of everything that was checked."""
    for good, name, text in (*_proofs(report), *_comparisons(report)):
        yield _OK if good else _FAIL, name, text
    if report.record is not None:
        mark = {"ok": _OK, "FAIL": _FAIL}.get(report.record.verdict, _WARNING)
        yield mark, "record", _record(report.record, report.settings)


def _proofs(report: Report) -> Iterator[tuple[bool, str, str]]:
    weights, levels, accumulators = report.weights, report.levels, report.accumulators
    if weights.layers:
        yield (
            weights.exact == weights.layers and not weights.offenders,
            "weights",
            f"{weights.exact} of {weights.layers} layers equal {_exactness(report)} "
            f"({weights.weights:,} weights, {_compared_weights(report)})",
        )
    if accumulators.compared:
        yield (
            accumulators.mismatches == 0 and accumulators.values_outside == 0,
            "oracle",
            f"{accumulators.mismatches:,} of {accumulators.compared:,} integers and "
            f"{accumulators.values_outside:,} of {accumulators.values_compared:,} floats differ",
        )
    if levels.compared:
        yield (
            levels.unexplained == 0,
            "levels",
            f"{levels.differing:,} of {levels.compared:,} differ, {levels.unexplained:,} "
            f"beyond float rounding{_furthest(levels)}",
        )
    if levels.values_compared or levels.values_outside:
        yield (
            levels.values_outside == 0,
            "values",
            f"{levels.values_outside:,} of {levels.values_compared:,} beyond float rounding "
            f"(largest difference {levels.largest_ratio:,.0%} of its bound)",
        )
    for name, proof in report.proofs.items():
        yield not proof.failures, name, _side_proof(proof, report)
    if report.another_size is not None:
        yield not report.another_size.failures, "size", _another_size(report.another_size)


def _comparisons(report: Report) -> Iterator[tuple[bool, str, str]]:
    def holds(part: str) -> bool:
        return not any(part in failure for failure in report.failures)

    if report.yardsticks:
        yield (
            holds("the original with itself"),
            "agreement",
            f"{report.agreement:.2%} in top-1; PyTorch with itself: {_yardsticks(report)}",
        )
    if "baseline" in report.settings:
        says = f"{report.agreement:.2%} in top-1 with the packed file's network"
        yield holds("the packed file's network"), "agreement", says
    if report.reference is not None:
        yield holds("your outputs"), "reference", _reference(report.reference)
    if report.sample is not None:
        yield not report.sample.failures, "sample", _sample(report.sample)
    yield holds("did not run on"), "provider", report.provider
    for products in report.exactness.values():
        if products.name or products.wrong:
            yield products.wrong is None, "products", products.says()
    if report.backends is not None:
        found = report.backends
        accuracy = "" if found.top1 is None else f"; top-1 {found.top1:.2%}"
        yield (
            not any(found.differing.values()),
            "integer",
            f"{', '.join(found.names)}: logits of {sum(found.differing.values()):,} of "
            f"{found.images:,} images and {found.random_images} random inputs differ{accuracy} "
            f"at {found.fraction_bits} fraction bits",
        )
