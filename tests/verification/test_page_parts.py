"""The page of a report, as text: what it holds, what it never holds."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from jinja2 import UndefinedError
from numpy.typing import NDArray
from PIL import Image

from apot_export.errors import DatasetError, visible
from apot_export.presentation.charts import Histogram
from apot_export.presentation.frame import environment
from apot_export.verification.page import render_page
from apot_export.verification.page._pictures import picture
from apot_export.verification.report import Report
from tests.support.outlines import Outline, assert_loads_nothing, assert_readable
from tests.support.sample_reports import REVERSED, failing, passing

Make = Callable[[], Report]
both = pytest.mark.parametrize("make", [passing, failing])


@both
def test_it_loads_nothing(make: Make) -> None:
    assert_loads_nothing(render_page(make()))


@both
def test_it_can_be_read_without_eyes(make: Make) -> None:
    assert_readable(render_page(make()))


@both
def test_same_report_same_bytes(make: Make) -> None:
    assert render_page(make()).encode("utf-8") == render_page(make()).encode("utf-8")


@both
def test_it_is_small(make: Make) -> None:
    assert len(render_page(make())) < 150_000


def test_sections_stand_in_reading_order() -> None:
    outline = Outline(render_page(failing()))
    assert [attributes["id"] for attributes in outline.all("section")] == [
        *("failures", "accuracy", "agreement", "levels", "values", "logits", "weights", "oracle"),
        *("placement", "backends", "flipped", "skipped", "environment"),
    ]


def test_every_number_of_the_report_is_there() -> None:
    report = failing()
    text = " ".join(Outline(render_page(report)).texts)
    numbers = [
        *(f"{layer.differing:,}" for layer in report.levels.layers),
        *(f"{number:,}" for number in report.sides[0].logit_differences),
        f"{report.weights.weights:,}",
        f"{report.accumulators.compared:,}",
        f"{report.accumulators.values_compared:,}",
        f"{report.levels.values_compared:,}",
        *("37,811", "36,900", "75.63%", "73.80%", "1,402", "491", "1,912", "2,733", "93.12%"),
        *("99.10%", "96.20%", "37.2 \N{MULTIPLICATION SIGN} its bound", "1,204", "0.375"),
        *("0.1875", "3 skipped", report.data_sha256, "device_id = 0", "2026-03-14 15:09:26 UTC"),
    ]
    for number in numbers:
        assert number in text, number
    for layer in report.levels.layers:
        assert layer.layer in text


def test_what_is_not_there_is_said() -> None:
    plain = dataclasses.replace(passing(), backends=None)
    text = " ".join(Outline(render_page(plain)).texts)
    assert "Integer backends" not in text
    assert "What fails" not in text
    assert "No image was skipped." in text
    floats = dataclasses.replace(
        plain.levels, compared=0, differing=0, layers=(), largest_ratio=math.nan
    )
    network = dataclasses.replace(plain, levels=floats, settings={}, yardsticks=())
    text = " ".join(Outline(render_page(network)).texts)
    assert "no quantized activations" in text
    assert "not known" in text
    assert "NaN" in text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"unsigned_zeros": False}, "bit for bit"),
        ({"unsigned_zeros": True}, "bit for bit, zeros without signs"),
        ({"unsigned_zeros": True, "family": "alq"}, "up to the order of adding sign vectors"),
    ],
)
def test_how_equal_weights_are_is_said(settings: dict[str, object], words: str) -> None:
    report = passing()
    page = render_page(dataclasses.replace(report, settings={**report.settings, **settings}))
    texts = Outline(page).texts
    assert f"layers with weights equal {words}" in texts
    assert any(f" equal {words};" in text for text in texts)


@pytest.mark.parametrize(
    ("checkpoint", "model", "what"),
    [
        ("res20.pth.tar", None, "res20.pth.tar"),
        ("x.pt", {"factory": "nets:make"}, "x.pt, nets:make"),
        (None, None, "a network in memory"),
    ],
)
def test_an_original_that_the_user_states_is_named(
    checkpoint: str | None, model: dict[str, str] | None, what: str
) -> None:
    report = passing()
    original = {"stated": True, "checkpoint": checkpoint, "model": model, "choices": {"bits": 3}}
    page = render_page(
        dataclasses.replace(report, settings={**report.settings, "original": original})
    )
    assert f"stated by the user: {what}; bits = 3" in Outline(page).texts
    original["stated"] = False
    page = render_page(
        dataclasses.replace(report, settings={**report.settings, "original": original})
    )
    assert "stated by the user" not in page


def test_agreement_of_all_images_differs_from_images_that_were_not_kept() -> None:
    report = passing()
    one, *others = report.sides
    assert "same class for all 761 images" in render_page(report)
    differing = dataclasses.replace(one, agreement=760 / 761)
    page = render_page(dataclasses.replace(report, sides=(differing, *others)))
    assert "same class for all" not in page
    assert "none was kept" in page


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1.01, 5e7, math.inf, math.nan])
def test_the_largest_difference_is_drawn_beside_its_bound(ratio: float) -> None:
    report = passing()
    levels = dataclasses.replace(report.levels, largest_ratio=ratio)
    page = render_page(dataclasses.replace(report, levels=levels))
    gauge = page[page.index('class="gauge"') :].partition("</svg>")[0]
    assert ('class="bad"' in gauge) == (not ratio <= 1)
    shares = [float(part.partition("%")[0]) for part in gauge.split('width="')[1:]]
    assert all(0 <= share <= 100 for share in shares)


def test_heights_of_a_histogram_are_logarithmic() -> None:
    chart = Histogram(
        title="t", axis="a", counted="thing", edges=("1", "2"), counts=(10, 100, 1000)
    )
    heights = [bar.height for bar in chart.bars]
    assert heights[2] - heights[1] == pytest.approx(heights[1] - heights[0], abs=0.02)
    drawn = drawing("histogram", chart)
    assert [float(bar["height"] or 0) for bar in drawn.all("rect")] == heights
    assert drawn.all("svg")[0]["aria-label"] == "t. below 1: 10; 1 to 2: 100; 2 or more: 1,000"


def test_bars_of_a_histogram_without_counts_have_no_height() -> None:
    chart = Histogram(title="t", axis="a", counted="thing", edges=("1",), counts=(0, 1))
    assert chart.bars[0].height == 0
    assert chart.bars[1].height > 0
    assert chart.border is None


def drawing(macro: str, *arguments: object) -> Outline:
    """Return what a macro of the page's parts draws."""
    return Outline(getattr(environment().get_template("parts.html").module, macro)(*arguments))


# --- text -----------------------------------------------------------------------------------------


@given(st.text(st.characters(), max_size=40))
def test_any_text_is_shown_as_text(text: str) -> None:
    template = environment().from_string('<p title="{{ text }}">{{ text }}</p>')
    element = template.render(text=text)
    element.encode("utf-8")
    parser = Outline(element)
    assert [name for name, _, _ in parser.elements] == ["p"]
    shown = "".join(parser.texts)
    assert parser.elements[0][1]["title"] == shown
    assert shown == visible(text)
    if text.isprintable():
        assert shown == text


def test_names_that_deceive_are_spelled_out() -> None:
    assert visible(REVERSED) == r"cat\u202egnp.exe\n\udcff"


def test_a_value_that_is_missing_is_an_error_and_not_an_empty_text() -> None:
    with pytest.raises(UndefinedError):
        environment().from_string("{{ absent }}").render()


# --- pictures -------------------------------------------------------------------------------------

images = st.sampled_from([1, 3]).flatmap(
    lambda channels: arrays.arrays(
        np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(channels))
    )
)


def shown(pixels: NDArray[np.uint8], largest: int = 128) -> NDArray[np.uint8]:
    """Return the pixels of the PNG file in a picture's address."""
    found = picture(pixels, largest)
    kind, _, data = found.address.partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
        image.load()
        assert image.format == "PNG"
        assert image.mode == {1: "L", 3: "RGB"}[pixels.shape[2]]
        assert image.size == (found.width, found.height)
        return np.asarray(image).reshape(found.height, found.width, -1)


@given(images)
def test_pictures_keep_their_pixels(pixels: NDArray[np.uint8]) -> None:
    assert np.array_equal(shown(pixels), pixels)


def test_pictures_of_smooth_pixels_are_compressed() -> None:
    rows, columns = np.mgrid[0:64, 0:64]
    smooth = (rows * 2 + columns).astype(np.uint8)[:, :, None]
    assert len(picture(smooth).address) < smooth.size / 15  # of base64


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
    ids=["two channels", "no channels", "empty", "floats"],
)
def test_pictures_of_something_else_are_refused(pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(DatasetError, match="cannot be shown"):
        picture(pixels)


@given(images, st.integers(1, 9))
def test_shrunk_pictures_fit_and_average_squares(pixels: NDArray[np.uint8], largest: int) -> None:
    factor = picture(pixels, largest).factor
    small = shown(pixels, largest)
    assert max(small.shape[:2]) <= largest
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor  # of whole squares
    squares = pixels[: height * factor, : width * factor].astype(np.float64)
    means = squares.reshape(height, factor, width, factor, pixels.shape[2]).mean(axis=(1, 3))
    assert np.all(np.abs(small[:height, :width] - means) <= 0.5 + 1e-6)
