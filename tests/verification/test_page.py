"""The page of a report, as a browser shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apot_export.errors import visible
from apot_export.verification.page import render_page
from tests.support.browser import (
    DARK,
    WIDTHS,
    assert_letters_lie_inside_and_apart,
    browse,
    find_browser,
    probe,
)
from tests.support.sample_reports import CLOSING, HANDLER, REVERSED, SCRIPT, failing, passing

PAGES = {"PASS": passing, "FAIL": failing}


@pytest.fixture(scope="module")
def browser() -> str:
    return find_browser()


@pytest.fixture(
    scope="module", params=[(name, width) for name in PAGES for width in WIDTHS], ids=str
)
def seen(
    request: pytest.FixtureRequest, browser: str, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Return what a browser makes of a page at a width, and of which report it is."""
    name, width = request.param
    found = probe(browser, tmp_path_factory.mktemp("page"), render_page(PAGES[name]()), width)
    assert found["width"] == width
    return {**found, "name": name}


def test_it_never_scrolls_sideways(seen: Any) -> None:
    assert seen["scrollWidth"] <= seen["width"]


def test_it_says_the_verdict(seen: Any) -> None:
    text = seen["text"]
    assert seen["name"] in text.split()[:5]
    if seen["name"] == "FAIL":
        assert "wrong bits" in text
        assert "the original with itself on 99.10%" in text
    else:
        assert "FAIL" not in text
        assert "res20_4bit" in text
        assert "13,369,344" in text


def test_letters_of_drawings_lie_inside_and_apart(seen: Any) -> None:
    assert len(seen["boxes"]) > 30
    assert_letters_lie_inside_and_apart(seen)


def test_its_drawings_and_images_are_there(seen: Any) -> None:
    report = PAGES[seen["name"]]()
    rates = 1 + 2 * len(report.sides) + len(report.yardsticks)
    histograms_and_gauge = 3
    assert seen["drawings"] == rates + histograms_and_gauge
    # 224 pixels are shown as 112; the smaller ones as they are.
    sizes = [[112, 112], [32, 32], [28, 28], [80, 112], [112, 112]]
    assert seen["images"] == (sizes if report.flipped else [])


def test_hostile_names_are_text(seen: Any) -> None:
    assert seen["scripts"] == 1  # the one that looks
    assert seen["handlers"] == 0
    report = PAGES[seen["name"]]()
    if seen["name"] == "PASS":
        assert seen["title"] == "PASS: res20_4bit, cifar10"
        return
    assert seen["title"] == f"FAIL: {report.path.name}, imagenet"
    text = seen["text"]
    for name in (SCRIPT, HANDLER, visible(REVERSED), report.path.name):
        assert name in text, name
    assert "\u202e" not in text
    assert CLOSING[:8] not in text.replace(report.path.name, "")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(
    ("scheme", "darkest"), [((), False), ((DARK,), True)], ids=["light", "dark"]
)
def test_it_can_be_looked_at(
    name: str, scheme: tuple[str, ...], darkest: bool, browser: str, tmp_path: Path
) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(render_page(PAGES[name]()), encoding="utf-8")
    browse(browser, tmp_path, page, "--window-size=1000,1600", f"--screenshot={picture}", *scheme)
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(np.int64)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    assert (np.median(pixels) < 64) == darkest
    # The bar over the verdict is red or green across the whole width.
    red, green, _ = pixels[3].T
    assert np.all(red > green) if name == "FAIL" else np.all(green > red)


def test_its_own_policy_lets_its_pictures_in(browser: str, tmp_path: Path) -> None:
    """With the policy in place, too, a picture of the page shows its own pixels."""
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    whole = render_page(failing())
    alone = whole[: whole.index("<body>")] + whole[whole.index("<img ") :].partition(">")[0] + ">"
    page.write_text(alone, encoding="utf-8")
    browse(browser, tmp_path, page, "--window-size=300,300", f"--screenshot={picture}")
    with Image.open(picture) as image:
        colours = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colours) > 1000
