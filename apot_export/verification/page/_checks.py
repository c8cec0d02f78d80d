"""The exact checks: weights, oracle, placement of nodes, integer backends."""

from __future__ import annotations

from collections.abc import Sequence

from apot_export.verification.page import _names
from apot_export.verification.page._markup import Column, Markup, facts, joined, section, table, tag
from apot_export.verification.page._numbers import count, percent, plural
from apot_export.verification.report import BackendComparison, Report


def weights(report: Report) -> Markup:
    """Return the certificate of the weights."""
    found = report.weights
    text = joined(
        [
            tag("b", f"{count(found.exact)} of {plural(found.layers, 'layer')}"),
            f" equal {_names.exactness(report)}; {plural(found.weights, 'weight')} were compared.",
        ]
    )
    return section(
        "weights",
        "Weights",
        "Every weight that the packed file decodes to, and every weight that ONNX Runtime itself "
        "decodes from the model, against the quantized weight that the original computes. Nothing "
        "of this shares code with the encoder.",
        *_finding(text, found.offenders, good=found.exact == found.layers),
    )


def oracle(report: Report) -> Markup:
    """Return the comparison of ONNX Runtime with the integer oracle."""
    found = report.accumulators
    note = (
        "The oracle recomputes every node by integer shifts and adds, from the inputs that ONNX "
        "Runtime had. Levels and accumulators are integers and must be equal; the float values of "
        "the other nodes must lie within rounding."
    )
    if not found.compared and not found.values_compared:
        return section("oracle", "Integer oracle", note, tag("p", "Nothing was compared."))
    text = joined(
        [
            tag("b", count(found.mismatches)),
            f" of {plural(found.compared, 'integer')} and ",
            tag("b", count(found.values_outside)),
            f" of {plural(found.values_compared, 'float value')} differ.",
        ]
    )
    good = not found.mismatches and not found.values_outside
    return section("oracle", "Integer oracle", note, *_finding(text, found.offenders, good=good))


def placement(report: Report) -> Markup:
    """Return where nodes ran."""
    columns = (
        Column(title="Execution provider", number=False),
        Column(title="Nodes"),
        Column(title="Share"),
    )
    nodes = sum(report.placement.values())
    rows = [
        [tag("code", name), count(number), percent(number / nodes if nodes else 0.0, 1)]
        for name, number in report.placement.items()
    ]
    return section(
        "placement",
        "Placement",
        "Nodes that computed values, by the execution provider that ran them. A node that falls "
        "back to another provider makes the speed, and the verdict, one of something else.",
        tag("p", "Values were computed by ", tag("code", report.provider), ".", class_="summary"),
        table("Nodes by execution provider", columns, rows),
    )


def backends(report: Report) -> Markup:
    """Return the comparison of integer backends; empty where none was asked for."""
    found = report.backends
    if found is None:
        return Markup()
    return section(
        "backends",
        "Integer backends",
        f"The all-integer network on every backend, every bit of its logits compared with "
        f"those of {found.names[0]}.",
        facts(
            [
                ("Images", count(found.images)),
                ("Random inputs", count(found.random_images)),
                ("Top-1 of the integer network", percent(found.top1)),
                ("Fraction bits", count(found.fraction_bits)),
            ]
        ),
        table("Images with other logits", _BACKEND_COLUMNS, _backend_rows(found)),
    )


_BACKEND_COLUMNS = (
    Column(title="Backend", number=False),
    Column(title="Images that differ"),
    Column(title="First difference", number=False),
)


def _backend_rows(found: BackendComparison) -> list[list[str]]:
    reference, *others = found.names
    rows: list[list[str]] = [[tag("code", reference), "—", "reference"]]
    for name in others:
        first = found.first_difference.get(name, "none")
        rows.append([tag("code", name), count(found.differing.get(name, 0)), first])
    return rows


def _finding(text: str, offenders: Sequence[str], *, good: bool) -> list[Markup]:
    parts = [tag("p", text, class_="summary" if good and not offenders else "summary fails")]
    if offenders:
        parts.append(tag("ul", *(tag("li", name) for name in offenders), class_="failures"))
    return parts
