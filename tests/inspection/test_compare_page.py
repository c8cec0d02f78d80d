"""The page of a comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

import apot_export
from apot_export.inspection.page import render_comparison
from tests.support.browser import (
    WIDTHS,
    assert_letters_lie_inside_and_apart,
    find_browser,
    probe,
)
from tests.support.commands import EXPORT, here, run
from tests.support.outlines import Outline, assert_loads_nothing, assert_readable


@pytest.fixture(scope="module")
def pages(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return pages of an export with itself on images, and without zeros' signs, on none."""
    other = tmp_path_factory.mktemp("pages") / "<b>unsigned"
    checkpoint = exported / EXPORT.with_suffix(".pth.tar")
    apot_export.convert(checkpoint, other, unsigned_zeros=True)
    one = exported / EXPORT
    return {
        "itself": render_comparison(apot_export.compare(one, one, dataset="digits", limit=50)),
        "unsigned": render_comparison(apot_export.compare(one, other)),
    }


@pytest.mark.parametrize("name", ["itself", "unsigned"])
def test_it_loads_nothing_can_be_read_and_fits(
    name: str, pages: dict[str, str], tmp_path: Path
) -> None:
    assert_loads_nothing(pages[name])
    assert_readable(pages[name])
    for width in WIDTHS:
        seen = probe(find_browser(), tmp_path, pages[name], width)
        assert seen["scrollWidth"] <= width
        assert_letters_lie_inside_and_apart(seen)


def test_it_tells_what_the_comparison_tells(pages: dict[str, str], exported: Path) -> None:
    found = apot_export.compare(exported / EXPORT, exported / EXPORT, dataset="digits", limit=50)
    text = " ".join(Outline(pages["itself"]).texts)
    assert found.results is not None
    assert found.results.first.top1 is not None
    assert f"{found.results.first.top1:.2%}" in text
    assert "Both name the same class for 100.00% of images" in text
    assert "0 codes and 0 values differ" in text
    other = " ".join(Outline(pages["unsigned"]).texts)
    assert "<b>unsigned" in other
    assert "no images were named" in other


@here
def test_the_command_writes_it(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run("compare", EXPORT, EXPORT, "--html", page)
    assert result.exit_code == 0, result.output
    assert page.read_text() == render_comparison(apot_export.compare(EXPORT, EXPORT))
    assert run("compare", EXPORT, EXPORT, "--html", tmp_path).exit_code == 2
