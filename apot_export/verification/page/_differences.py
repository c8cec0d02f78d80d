"""Differences of levels, values and logits, and whether float rounding explains them."""

from __future__ import annotations

from collections.abc import Sequence

from apot_export.verification.page import _names
from apot_export.verification.page._histogram import Bins, histogram
from apot_export.verification.page._markup import (
    Column,
    Markup,
    escape,
    joined,
    section,
    table,
    tag,
)
from apot_export.verification.page._numbers import TIMES, count, plural, power_of_ten, real
from apot_export.verification.report import (
    DIFFERENCE_EDGES,
    DISTANCE_EDGES,
    LayerLevels,
    LevelComparison,
    Report,
)

_FRACTIONS = {0.125: "1/8", 0.25: "1/4", 0.5: "1/2"}
_LONGEST = 6.0
"""Bounds that the gauge shows at most."""
_AT_A_GLANCE = 24
"""Layers of which a table does not scroll."""
_SHOWN = 6
"""Layers that are named in a sentence."""


def levels(report: Report) -> Markup:
    """Return how many activation levels differ, in which layers, how far from decision points."""
    found = report.levels
    note = (
        f"Both sides' layers were fed with the same input ({plural(found.images, 'image')}), so "
        "differences do not pile up along the network. A level may differ only where the input of "
        "its quantizer lies within float rounding of a decision point; the distance to that point "
        "is counted in units of the rounding bound, and above 1 nothing explains it."
    )
    if not found.compared:
        text = "The network has no quantized activations: there are no levels to compare."
        return section("levels", "Levels", note, tag("p", text))
    content: list[str] = [tag("p", _summary(found), class_="summary")]
    if found.layers:
        content += [histogram(_distances(found.layers)), _layers(found.layers)]
    return section("levels", "Levels", note, *content, _offenders(found.offenders))


def values(report: Report) -> Markup:
    """Return how far float values are apart, in units of what rounding can do."""
    found = report.levels
    within = not found.values_outside
    text = joined(
        [
            tag("b", count(found.values_outside)),
            f" of {count(found.values_compared)} values are further apart than float rounding "
            "allows. The largest difference is ",
            tag("b", f"{real(found.largest_ratio)}{TIMES}its bound"),
            ".",
        ]
    )
    return section(
        "values",
        "Values",
        "Float values between layers (residual stream, logits), both sides computed from the same "
        "input. Each carries its own bound on what float32 rounding can do to it.",
        tag("p", text, class_="summary" if within else "summary fails"),
        _gauge(found.largest_ratio),
    )


def logits(report: Report) -> Markup:
    """Return a histogram of how far the export's logits are from the original's."""
    first = report.sides[0]
    bins = Bins(
        title=f"Logits of {_names.spoken(first.name)}",
        axis="difference from the original's logit",
        counted="logit",
        edges=tuple(power_of_ten(round(_exponent(edge))) for edge in DIFFERENCE_EDGES),
        counts=first.logit_differences,
    )
    return section(
        "logits",
        "Logits",
        "End to end, without feeding layers the same input. Most logits differ by rounding alone "
        "(left); a level that moved changes the logits of its image by much more (right). This is "
        "no criterion: the original differs from itself in the same way.",
        histogram(bins),
        tag(
            "p",
            f"Largest difference {real(first.largest_logit_difference)}, "
            f"mean {real(first.mean_logit_difference)}. Both axes are logarithmic.",
        ),
    )


def _exponent(edge: float) -> float:
    return float(f"{edge:e}".partition("e")[2])


def _summary(found: LevelComparison) -> Markup:
    parts: list[str] = [
        tag("b", count(found.differing)),
        f" of {count(found.compared)} levels differ, ",
        tag("b", count(found.unexplained)),
        " of these beyond float rounding",
    ]
    guilty = [layer for layer in found.layers if layer.unexplained]
    if guilty:
        named = [f"{layer.layer} ({count(layer.unexplained)})" for layer in guilty[:_SHOWN]]
        more = f" and {len(guilty) - _SHOWN} more" if len(guilty) > _SHOWN else ""
        parts.append(
            f", in {len(guilty)} of {plural(len(found.layers), 'layer')}: {', '.join(named)}{more}"
        )
    return joined([*parts, "."])


def _distances(layers: Sequence[LayerLevels]) -> Bins:
    sums = tuple(map(sum, zip(*(layer.distances for layer in layers), strict=True)))
    return Bins(
        title="Differing levels by their distance to the decision point",
        axis="distance ÷ rounding bound",
        counted="level",
        edges=tuple(_FRACTIONS.get(edge, f"{edge:g}") for edge in DISTANCE_EDGES),
        counts=sums,
        bad_from=len(DISTANCE_EDGES),
    )


def _layers(layers: Sequence[LayerLevels]) -> Markup:
    """Return a row per layer, with a bar under every number."""
    columns = (
        Column(title="Layer", number=False),
        Column(title="Differing"),
        Column(title="Unexplained"),
        Column(title="Largest distance"),
        Column(title="Compared"),
    )
    compared = max(layer.compared for layer in layers)
    differing = max(layer.differing for layer in layers)
    rows = [
        [
            tag("code", layer.layer),
            _bar(layer.differing, differing, "explained"),
            _bar(layer.unexplained, differing, "unexplained"),
            real(layer.largest_distance, 2) if layer.differing else "—",
            _bar(layer.compared, compared, "plain"),
        ]
        for layer in layers
    ]
    total = [
        "All layers",
        count(sum(layer.differing for layer in layers)),
        count(sum(layer.unexplained for layer in layers)),
        real(max(layer.largest_distance for layer in layers), 2),
        count(sum(layer.compared for layer in layers)),
    ]
    caption = "Levels by layer, in order of computation"
    note = "Bars are linear; those of differing and of unexplained levels share a scale."
    return tag(
        "figure",
        table(caption, columns, rows, total=total, tall=len(layers) > _AT_A_GLANCE),
        tag("figcaption", note),
    )


def _bar(number: int, largest: int, kind: str) -> Markup:
    if not number:
        return escape(count(number))
    share = f"--share:{number / largest:.4f}"
    return tag("span", count(number), class_=f"measured {kind}", style=share)


def _offenders(offenders: Sequence[str]) -> Markup:
    if not offenders:
        return Markup()
    return tag("ul", *(tag("li", text) for text in offenders), class_="failures")


def _gauge(ratio: float) -> Markup:
    """Draw the largest difference against its bound."""
    end = min(_LONGEST, max(1.25, ratio * 1.1))
    filled = 100 * min(ratio / end, 1.0) if ratio >= 0 else 100.0  # not a number: full
    bound = f"{100 / end:.2f}%"
    said = f"Largest difference: {real(ratio)}{TIMES}its rounding bound"
    drawing = tag(
        "svg",
        tag("title", said),
        tag("rect", x=0, y=6, width="100%", height=12, class_="track"),
        tag("rect", x=0, y=6, width=f"{filled:.2f}%", height=12, class_=_kind(ratio)),
        tag("line", x1=bound, x2=bound, y1=0, y2=24, class_="border"),
        tag("text", "0", x=0, y=38),
        tag("text", "bound", x=bound, y=38, text_anchor="middle"),
        *([tag("text", "→", x="100%", y=38, text_anchor="end")] if ratio > end else []),
        height=44,
        role="img",
        aria_label=said,
        class_="gauge",
    )
    return tag("figure", drawing)


def _kind(ratio: float) -> str:
    return "bar" if ratio <= 1 else "bad"
