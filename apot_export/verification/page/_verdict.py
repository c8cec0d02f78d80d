"""The head of the page: the verdict, what it is about, what fails and where it starts."""

from __future__ import annotations

from collections.abc import Iterator

from apot_export.verification.page import _names
from apot_export.verification.page._markup import Markup, facts, section, tag
from apot_export.verification.page._numbers import count, exact, percent, plural
from apot_export.verification.report import Divergence, Report


def head(report: Report) -> Markup:
    """Return the verdict in one sentence, what was verified, and the key figures."""
    passed = not report.failures
    badge = tag("span", _sign(good=passed), report.verdict, class_="badge")
    return tag(
        "header",
        tag("p", "apot-export verify", class_="tool"),
        tag("h1", badge, " ", tag("span", _names.title(report), class_="export")),
        tag("p", _sentence(report), class_="sentence"),
        facts(
            [
                ("Export", tag("code", str(report.path))),
                ("Architecture", str(report.settings.get("architecture", "not known"))),
                ("Weight bits", _names.quantization(report)),
                ("Family", str(report.settings.get("family", "not known"))),
                ("Dataset", report.dataset),
                ("Images", _images(report)),
                ("Date", tag("time", _names.moment(report.date), datetime=report.date)),
            ]
        ),
        tag("ul", *_key_figures(report), class_="key-figures"),
        class_="pass" if passed else "fail",
    )


def failures(report: Report) -> Markup:
    """Return what fails and the first divergence; empty where there is neither."""
    if not report.failures and report.divergence is None:
        return Markup()
    content = [tag("ul", *(tag("li", text) for text in report.failures), class_="failures")]
    if report.divergence is not None:
        content.append(_divergence(report.divergence))
    return section(
        "failures",
        "What fails",
        "One line for every criterion that does not hold. The first divergence is the first place, "
        "in order of computation, at which the export is not the original: later ones may only "
        "follow from it.",
        *content,
    )


def _sentence(report: Report) -> str:
    images = f"{plural(report.images, 'image')} of {report.dataset}"
    if not report.failures:
        return (
            f"On {images} the export computes what the original computes: what can be exact is "
            "exact, and every other difference lies within float rounding."
        )
    number = len(report.failures)
    criteria = "A criterion does" if number == 1 else f"{number} criteria do"
    return f"{criteria} not hold on {images}: the export is not shown to compute what was trained."


def _images(report: Report) -> str:
    skipped = len(report.skipped)
    return count(report.images) + (f" ({count(skipped)} skipped)" if skipped else "")


def _sign(*, good: bool) -> Markup:
    path = "M3 8.5 6.5 12 13 4.5" if good else "M4 4 12 12M12 4 4 12"
    return tag("svg", tag("path", d=path), viewBox="0 0 16 16", class_="sign", aria_hidden="true")


def _key_figures(report: Report) -> Iterator[Markup]:
    weights, levels, oracle = report.weights, report.levels, report.accumulators
    yield _figure(
        "weights",
        f"{count(weights.exact)} of {count(weights.layers)}",
        f"layers with weights equal {_names.exactness(report)}",
        good=weights.exact == weights.layers and not weights.offenders,
    )
    if levels.compared:
        yield _figure(
            "levels",
            count(levels.unexplained),
            f"of {count(levels.compared)} levels differ beyond float rounding",
            good=not levels.unexplained,
        )
    yield _figure(
        "values",
        count(levels.values_outside),
        f"of {count(levels.values_compared)} values differ beyond float rounding",
        good=not levels.values_outside,
    )
    if oracle.compared:
        yield _figure(
            "oracle",
            count(oracle.mismatches),
            f"of {count(oracle.compared)} integers differ from the oracle's",
            good=not oracle.mismatches and not oracle.values_outside,
        )
    text = "top-1 agreement with the original"
    if report.yardsticks:
        text += f"; the original with itself {percent(report.self_agreement)}"
    yield _figure("agreement", percent(report.agreement), text)


def _figure(name: str, number: str, text: str, *, good: bool | None = None) -> Markup:
    parts: list[str] = [tag("b", number)]
    if good is not None:
        word = "holds" if good else "fails"
        parts.append(tag("span", _sign(good=good), word, class_=f"mark {word}"))
    return tag("li", tag("a", *parts, tag("span", text), href=f"#{name}"))


def _divergence(found: Divergence) -> Markup:
    pairs: list[tuple[str, str]] = [
        ("Layer", tag("code", found.layer)),
        ("What differs", found.kind),
        ("Channel", "the layer as a whole" if found.channel is None else str(found.channel)),
    ]
    if found.place:
        pairs.append(("Index of the first value", tag("code", str(list(found.place)))))
    pairs += [("Original", _value(found.original)), ("Export", _value(found.export))]
    if found.original is not None and found.export is not None:
        pairs.append(("Difference", _value(found.export - found.original)))
    pairs += [
        ("Probable cause", tag("b", found.cause or "none of the known ones")),
        ("Evidence", found.evidence),
    ]
    return tag(
        "div",
        tag("h3", "First divergence"),
        facts(pairs, "facts divergence"),
        class_="card",
        id="divergence",
    )


def _value(number: float | None) -> str:
    if number is None:
        return "no single value"
    return tag("span", exact(number), class_="exact")
