"""Accuracy and speed of both sides, and how far they agree."""

from __future__ import annotations

from apot_export.datasets.significance import wilson_interval
from apot_export.verification.page import _names
from apot_export.verification.page._intervals import Rate, interval_chart
from apot_export.verification.page._markup import Column, Markup, section, table
from apot_export.verification.page._numbers import (
    count,
    interval,
    percent,
    plural,
    rate_per_second,
    real,
)
from apot_export.verification.report import ComparedSide, Report, Side, Yardstick


def accuracy(report: Report) -> Markup:
    """Return top-1, top-5 and speed of the original and of everything compared with it."""
    reference = _names.original(report)
    rates = [
        _top1(reference, reference, report.original, hollow=True),
        *(
            _top1(_names.executor(other.name), _names.spoken(other.name), other.side, hollow=False)
            for other in report.sides
        ),
    ]
    columns = (
        Column(title="Executor", number=False),
        Column(title="Top-1"),
        Column(title="Right"),
        Column(title="95% interval"),
        Column(title="Top-5"),
        Column(title="Images/s"),
        Column(title="Agreement"),
    )
    rows = [[*_side(reference, report, report.original), "—"]] + [
        [*_side(_names.executor(other.name), report, other.side), percent(other.agreement)]
        for other in report.sides
    ]
    return section(
        "accuracy",
        "Accuracy",
        f"Every executor saw the same {plural(report.images, 'image')}. The whisker is Wilson's "
        "95% interval of top-1: so many images say no more than this. Because the images are "
        "the same, the flips are the sharper comparison: images that one side alone gets right. "
        "McNemar's p is the probability of flips as uneven as these if neither side were better.",
        interval_chart("top-1", rates),
        table(f"Accuracy and speed on {plural(report.images, 'image')}", columns, rows),
        _flips(report),
    )


def agreement(report: Report) -> Markup:
    """Return how often both sides name the same class, beside the original against itself."""
    rates = [_agreement(other, report.images) for other in report.sides]
    rates += [_yardstick(yardstick) for yardstick in report.yardsticks]
    columns = (
        Column(title="Compared with the original", number=False),
        Column(title="Images"),
        Column(title="Same class"),
        Column(title="Agreement"),
        Column(title="Largest logit difference"),
        Column(title="Mean logit difference"),
    )
    rows = [
        [
            _names.executor(other.name),
            count(report.images),
            count(round(other.agreement * report.images)),
            percent(other.agreement),
            real(other.largest_logit_difference),
            real(other.mean_logit_difference),
        ]
        for other in report.sides
    ] + [
        [
            _names.itself(yardstick),
            count(yardstick.images),
            count(yardstick.agreeing),
            percent(yardstick.agreement),
            "—",
            "—",
        ]
        for yardstick in report.yardsticks
    ]
    return section(
        "agreement",
        "Agreement",
        "Float rounding moves a few activations per image over a level boundary, and one moved "
        "level moves logits. So the original does not always agree with itself when it is computed "
        "another way: that is the yardstick (hollow). The export should not agree less.",
        interval_chart("top-1 agreement with the original", rates),
        table("Agreement with the original", columns, rows),
    )


def _top1(name: str, spoken: str, side: Side, *, hollow: bool) -> Rate:
    low, high = side.top1_interval
    return Rate(name=name, spoken=spoken, rate=side.top1, low=low, high=high, hollow=hollow)


def _side(name: str, report: Report, side: Side) -> list[str]:
    return [
        name,
        percent(side.top1),
        f"{count(side.top1_hits)} of {count(report.images)}",
        interval(*side.top1_interval),
        percent(side.top5),
        rate_per_second(side.images_per_second),
    ]


def _flips(report: Report) -> Markup:
    columns = (
        Column(title="Executor", number=False),
        Column(title="Right by the original alone"),
        Column(title="Right by this one alone"),
        Column(title="McNemar's p"),
    )
    rows = [
        [
            _names.executor(other.name),
            count(other.flips.original_only),
            count(other.flips.export_only),
            real(other.flips.probability, 2),
        ]
        for other in report.sides
    ]
    return table("Flips: images that one side alone gets right", columns, rows)


def _agreement(other: ComparedSide, images: int) -> Rate:
    low, high = wilson_interval(round(other.agreement * images), images)
    return Rate(
        name=_names.executor(other.name),
        spoken=_names.spoken(other.name),
        rate=other.agreement,
        low=low,
        high=high,
        hollow=False,
    )


def _yardstick(yardstick: Yardstick) -> Rate:
    low, high = wilson_interval(yardstick.agreeing, yardstick.images)
    return Rate(
        name=_names.itself(yardstick),
        spoken=_names.itself(yardstick),
        rate=yardstick.agreement,
        low=low,
        high=high,
        hollow=True,
    )
