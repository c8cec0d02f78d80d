"""A verification report as a page: its drawings, and the values of its template."""

from __future__ import annotations

import math

from apot_export.datasets.significance import wilson_interval
from apot_export.presentation.charts import Gauge, Histogram, IntervalChart, Rate
from apot_export.presentation.frame import render
from apot_export.presentation.numbers import power_of_ten
from apot_export.verification.page import _names
from apot_export.verification.page._pictures import picture
from apot_export.verification.report import DIFFERENCE_EDGES, DISTANCE_EDGES, Report

_FRACTIONS = {0.125: "1/8", 0.25: "1/4", 0.5: "1/2"}


def render_page(report: Report) -> str:
    """Return a verification report as a complete HTML5 document in one file.

    It loads nothing, runs no script, and shows every name of the report as text. The same report
    gives the same page.

    Raises:
        DatasetError: The pixels of a flipped image cannot be shown as a picture.
    """
    return render(
        __package__,
        "verification.html",
        report=report,
        names=_names,
        top1=_top1(report),
        agreement=_agreement(report),
        distances=_distances(report),
        logits=_logits(report),
        largest=Gauge(report.levels.largest_ratio),
        pictures=[(image, picture(image.pixels)) for image in report.flipped],
    )


def _top1(report: Report) -> IntervalChart:
    sides = [
        (_names.original(report), None, report.original),
        *((_names.executor(x.name), _names.word(x.name), x.side) for x in report.sides),
    ]
    rates = [
        Rate(name, side.top1, side.top1_interval, word, reference=position == 0)
        for position, (name, word, side) in enumerate(sides)
        if side.top1 is not None and side.top1_interval is not None
    ]
    return IntervalChart("top-1", rates)


def _agreement(report: Report) -> IntervalChart:
    rates = []
    for other in report.sides:
        interval = wilson_interval(_names.agreeing(report, other), report.images)
        name, word = _names.executor(other.name), _names.word(other.name)
        rates.append(Rate(name, other.agreement, interval, word))
    for yardstick in report.yardsticks:
        interval = wilson_interval(yardstick.agreeing, yardstick.images)
        name = _names.itself(yardstick)
        rates.append(Rate(name, yardstick.agreement, interval, reference=True))
    return IntervalChart("top-1 agreement with the original", rates)


def _distances(report: Report) -> Histogram:
    layers = [layer.distances for layer in report.levels.layers]
    return Histogram(
        title="Differing levels by their distance to the decision point",
        axis="distance ÷ rounding bound",
        counted="level",
        edges=[_FRACTIONS.get(edge, f"{edge:g}") for edge in DISTANCE_EDGES],
        counts=[sum(counts) for counts in zip(*layers, strict=True)],
        bad_from=len(DISTANCE_EDGES),
        sides=("explained", "unexplained"),
    )


def _logits(report: Report) -> Histogram:
    first = report.sides[0]
    return Histogram(
        title=f"Logits of {_names.executor(first.name)}",
        axis="difference from the original's logit",
        counted="logit",
        edges=[power_of_ten(round(math.log10(edge))) for edge in DIFFERENCE_EDGES],
        counts=first.logit_differences,
    )
