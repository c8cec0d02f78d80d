"""The whole page."""

from __future__ import annotations

from importlib import resources

from apot_export.verification.page import (
    _accuracy,
    _checks,
    _differences,
    _images,
    _names,
    _verdict,
)
from apot_export.verification.page._markup import Column, Markup, facts, joined, section, table, tag
from apot_export.verification.report import Report

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the page may load: nothing but the pictures that it holds itself; and no script runs."""
_LINE = Markup("\n")


def render_page(report: Report) -> str:
    """Return a report as a complete HTML5 document that needs nothing else to be read.

    It loads nothing, runs no script, and shows every name of the report as text. The same report
    gives the same page.

    Raises:
        DatasetError: A flipped image has no pixels that can be shown.
    """
    content = (
        _verdict.failures(report),
        _accuracy.accuracy(report),
        _accuracy.agreement(report),
        _differences.levels(report),
        _differences.values(report),
        _differences.logits(report),
        _checks.weights(report),
        _checks.oracle(report),
        _checks.placement(report),
        _checks.backends(report),
        _images.flipped(report),
        _images.skipped(report),
        _environment(report),
    )
    body = tag(
        "body",
        _hatching(),
        _verdict.head(report),
        _LINE,
        tag("main", *(part for part in content if part)),
        _LINE,
        tag("footer", _made_by(report)),
    )
    return f"<!DOCTYPE html>\n{tag('html', _head(report), _LINE, body, lang='en')}\n"


def _head(report: Report) -> Markup:
    style = resources.files("apot_export.verification.page").joinpath("page.css").read_text("utf-8")
    parts = (
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),  # else a browser asks a server for one
        tag("title", f"{report.verdict}: {_names.title(report)}, {report.dataset}"),
        tag("style", Markup(style)),
    )
    return tag("head", joined(parts, _LINE))


def _hatching() -> Markup:
    """Return the pattern of everything that must not be: to be told apart without colours."""
    lines = tag("path", d="M-2 2 2-2M0 8 8 0M6 10 10 6")
    pattern = tag(
        "pattern",
        tag("rect", width=8, height=8),
        lines,
        id="hatch",
        width=8,
        height=8,
        patternUnits="userSpaceOnUse",
    )
    return tag("svg", tag("defs", pattern), class_="definitions", aria_hidden="true")


def _environment(report: Report) -> Markup:
    columns = (Column(title="Setting", number=False), Column(title="Value", number=False))
    rows = [(tag("code", name), _names.setting(held)) for name, held in report.settings.items()]
    data = facts(
        [
            ("Dataset root", tag("code", report.dataset_root)),
            ("SHA-256 of the preprocessed images and labels", tag("code", report.data_sha256)),
        ],
        "facts wide",
    )
    return section(
        "environment",
        "Environment",
        "What it takes to repeat this. The same images have the same SHA-256, whatever folder they "
        "lie in.",
        data,
        table("Settings and versions", columns, rows),
    )


def _made_by(report: Report) -> str:
    version = report.settings.get("apot_export")
    tool = "apot-export" if version is None else f"apot-export {version}"
    return (
        f"Written by {tool}, verify. This page holds all that it shows: it loads nothing and runs "
        "no script."
    )
