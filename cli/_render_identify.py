"""Print an identification in the terminal."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rich.text import Text

from apot_export.original.witness import DECISIVE
from apot_export.presentation.tables import Column, View

from ._render import console_of_output
from ._tables import print_facts, print_text, print_view

if TYPE_CHECKING:
    from rich.console import Console

    from apot_export.inspection.identify import Candidate, Identification, Measurement, Named
    from apot_export.original.witness import Statistics

_SHOWN = 5
"""Hypotheses of the ranking by statistics."""
_MORE_IMAGES = 10
"""How many times as many images are suggested where those that were seen do not decide."""


def print_identification(found: Identification, *, wide: bool) -> None:
    """Show what is recognised in a checkpoint and, if it was measured, the ranking."""
    console = console_of_output()
    console.print(
        f"{found.checkpoint}: {found.architecture}, family {found.family}",
        style="bold",
        soft_wrap=True,
    )
    unknown = "; ".join(found.unknown) or "nothing that conversion needs"
    facts = [("the names say", _named(found.named)), ("not in the file", unknown)]
    if found.power_of_two_layers:
        layers = ", ".join(f"{name} ({bits})" for name, bits in found.power_of_two_layers.items())
        facts.append(("powers of two", f"weights of these layers, in codes of (bits): {layers}"))
    print_facts(console, facts)
    if found.statistics.sites:
        _print_statistics(console, found.statistics, wide=wide)
    if found.measurement is not None:
        _print_measurement(console, found.measurement, wide=wide)
    elif found.unknown:
        print_text(
            console, "With labelled images they are ranked by accuracy: --dataset NAME --data DIR"
        )


def hypotheses_view(found: Identification) -> View:
    """Return the hypotheses, best first: by images where there were any, else by batch-norms."""
    return _ranking(found.measurement) if found.measurement else _support(found.statistics, None)


def _named(named: Named) -> str:
    bits = "no bit-width" if named.bits is None else f"{named.bits} bits ({named.bits_from})"
    method = "no level set" if named.method_from == "default" else named.method
    source = "" if named.method_from == "default" else f" ({named.method_from})"
    grid = "" if named.grid is None else f", {named.grid} grid (folder name)"
    return f"{bits}, {method}{source}{grid}"


def _support(statistics: Statistics, most: int | None) -> View:
    pairs = zip(statistics.weights, statistics.activations, strict=False)
    rows = [
        {
            "weights": str(weights.hypothesis),
            "evidence": weights.evidence,
            "activations": str(activations.hypothesis),
            "activation_evidence": activations.evidence,
        }
        for weights, activations in [*pairs][:most]
    ]
    return View(
        columns=(
            Column(key="weights", title="weights", left=True),
            Column(key="evidence", title="evidence", show="{:.1f}".format),
            Column(key="activations", title="activations", left=True, leaves=1),
            Column(key="activation_evidence", title="evidence", show="{:.1f}".format, leaves=2),
        ),
        rows=rows,
    )


def _print_statistics(console: Console, statistics: Statistics, *, wide: bool) -> None:
    """Show the best hypotheses about weights and activations, and whether the first is decided."""
    console.print()
    print_text(
        console,
        f"What batch-norms behind {statistics.sites} quantized convolutions support "
        "(evidence in nats, less the best's):",
    )
    print_view(console, _support(statistics, _SHOWN), wide=wide)
    console.print()
    best = statistics.weights[0].hypothesis
    if statistics.decisive:
        console.print(Text(f"The weights are {best}.", "bold"))
    else:
        console.print(Text(f"Undecided: the weights may be {best}, or one near it.", "bold"))
    print_text(console, f"Hypotheses within {DECISIVE:g} nats of each other are not told apart.")


def _ranking(measurement: Measurement) -> View:
    rows = []
    for number, candidate in enumerate(measurement.candidates):
        rows.append(
            {
                "hypothesis": " = ".join(map(str, candidate.hypotheses)),
                "images": candidate.images,
                "top1": candidate.top1,
                "loss": candidate.loss,
                "remark": _remark(candidate, is_best=number == 0),
            }
        )
    return View(
        columns=(
            Column(key="hypothesis", title="hypothesis", left=True),
            Column(key="images", title="images", show="{:,}".format, leaves=1),
            Column(key="top1", title="top-1", show="{:.2%}".format),
            Column(key="loss", title="loss", show="{:.4f}".format),
            Column(key="remark", title="remark", left=True, leaves=2),
        ),
        rows=rows,
    )


def _print_measurement(console: Console, measurement: Measurement, *, wide: bool) -> None:
    console.print()
    print_text(
        console,
        f"{measurement.images:,} of {measurement.available:,} images of {measurement.dataset}, "
        "best first",
    )
    kept = tuple(candidate for candidate in measurement.candidates if not candidate.dropped)
    print_view(console, _ranking(dataclasses.replace(measurement, candidates=kept)), wide=wide)
    console.print()
    _print_dropped(console, measurement)
    _print_verdict(console, measurement)


def _remark(candidate: Candidate, *, is_best: bool) -> str:
    remarks = ["best"] if is_best else ["not told apart from the best"] if candidate.tied else []
    if candidate.named:
        remarks.append("what the names say")
    return ", ".join(remarks)


def _print_dropped(console: Console, measurement: Measurement) -> None:
    dropped = [candidate for candidate in measurement.candidates if candidate.dropped]
    if dropped:
        best = max(dropped, key=lambda candidate: candidate.top1)
        print_text(
            console,
            f"{len(dropped)} more were hopeless and dropped early; the best of them: "
            f"{best.hypotheses[0]}, top-1 {best.top1:.2%} on {best.images:,} images.",
        )
        for candidate in dropped:
            if candidate.named:
                console.print(
                    f"What the names say is among these: {candidate.hypotheses[0]}, "
                    f"top-1 {candidate.top1:.2%}.",
                    style="bold yellow",
                )


def _print_verdict(console: Console, measurement: Measurement) -> None:
    if len(measurement.candidates) == 1:
        return
    tied = measurement.tied
    best = tied[0].hypotheses[0]
    if len(tied) == 1:
        console.print(Text(f"The images speak for {best}.", "bold"))
    else:
        console.print(Text(f"The images do not decide: {len(tied)} cannot be told apart.", "bold"))
    print_text(
        console,
        "Told apart: a paired test on the same images, sign test of top-1 or mean difference of "
        "the loss, speaks for the best beyond three standard errors, and none against it.",
    )
    if len(tied) > 1 and measurement.images < measurement.available:
        more = min(measurement.available, measurement.images * _MORE_IMAGES)
        print_text(console, f"More images may decide: --limit {more}.")
    print_text(
        console, "convert goes by options, else names, else batch-norms; it never reads images."
    )
