"""The page of an inspection: what it holds, and what a browser makes of it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apot_export
from apot_export.artifacts.directory import ONNX_MODEL, PACKED_MODEL
from apot_export.inspection.cost import value_bits
from apot_export.inspection.distributions import BINS, distributions
from apot_export.inspection.page import render_page
from apot_export.inspection.page._drawings import LevelsDrawing, MemoryDrawing
from apot_export.network import CodedLayer, WeightQuantizer
from apot_export.network.memory_plan import activations, bytes_of
from apot_export.presentation.columns import ColumnChart, round_ticks
from tests.support.browser import (
    WIDTHS,
    assert_letters_lie_inside_and_apart,
    find_browser,
    probe,
)
from tests.support.commands import CHECKPOINT, EXPORT, here, run
from tests.support.outlines import Outline, assert_loads_nothing, assert_readable
from tests.support.random_networks import write_checkpoint

SECTIONS = ["overview", "network", "levels", "weights", "alphas", "cost", "memory", "bits"]


@pytest.fixture(scope="module")
def pages(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the page of an export with its checkpoint, and of a packed file alone."""
    alone = tmp_path_factory.mktemp("alone") / PACKED_MODEL
    shutil.copy(exported / EXPORT / PACKED_MODEL, alone)
    paths = {"export": exported / EXPORT, "packed": alone}
    return {name: render_page(apot_export.inspect(path)) for name, path in paths.items()}


@pytest.mark.parametrize("name", ["export", "packed"])
def test_it_loads_nothing_and_can_be_read(name: str, pages: dict[str, str]) -> None:
    assert_loads_nothing(pages[name])
    assert_readable(pages[name])
    outline = Outline(pages[name])
    assert [one["id"] for one in outline.all("section")] == SECTIONS


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["export", "packed"])
def test_a_browser_shows_it_without_overflow(
    name: str, width: int, pages: dict[str, str], tmp_path: Path
) -> None:
    seen = probe(find_browser(), tmp_path, pages[name], width)
    assert seen["scrollWidth"] <= seen["width"] == width
    assert_letters_lie_inside_and_apart(seen)
    assert seen["title"] == f"{'res8_4bit' if name == 'export' else PACKED_MODEL}: " + (
        "export" if name == "export" else "packed file"
    )


def test_it_tells_what_the_views_tell(pages: dict[str, str], exported: Path) -> None:
    found = apot_export.inspect(exported / EXPORT)
    texts = {text.strip() for text in Outline(pages["export"]).texts}
    for layer in found.cost.layers:
        assert {layer.layer, f"{layer.additions:,}", f"{layer.bits_moved:,}"} <= texts
    for line in found.weights.layers:
        assert line.sqnr is None or f"{line.sqnr:.2f}" in texts
    for alpha in found.alphas.layers:
        assert {f"{alpha.weight_alpha:.4f}", f"{alpha.activation_alpha:.4f}"} <= texts
    peak = found.cost.forms[0].peak_bytes
    assert f"{peak:,} bytes at the peak" in " ".join(texts)


def test_without_the_checkpoint_it_says_why_and_what_to_do(
    pages: dict[str, str], exported: Path, tmp_path: Path
) -> None:
    assert "The weights before quantization are in the checkpoint." in pages["packed"]
    shutil.copytree(exported / EXPORT, tmp_path / "alone")
    found = apot_export.inspect(tmp_path / "alone", checkpoint=tmp_path / "gone.pth")
    with pytest.raises(apot_export.ApotExportError):  # it was stated, and is not there
        render_page(found)


def test_without_pytorch_an_export_has_all_but_the_weights_before(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = apot_export.inspect(exported / EXPORT)
    monkeypatch.setitem(sys.modules, "apot_export.original.opening", None)
    page = render_page(found)
    assert "A package that this needs is not installed." in page
    assert [one["id"] for one in Outline(page).all("section")] == SECTIONS


def test_a_model_alone_has_an_overview(exported: Path, tmp_path: Path) -> None:
    shutil.copy(exported / EXPORT / ONNX_MODEL, tmp_path)
    page = render_page(apot_export.inspect(tmp_path / ONNX_MODEL))
    assert_readable(page)
    assert [one["id"] for one in Outline(page).all("section")] == ["overview"]
    beside = render_page(apot_export.inspect(exported / EXPORT / ONNX_MODEL))
    assert [one["id"] for one in Outline(beside).all("section")] == SECTIONS


def test_names_are_text(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "<script>alert(1)<script>"
    shutil.copytree(exported / EXPORT, path)
    page = render_page(apot_export.inspect(path))
    assert not Outline(page).all("script")
    assert_readable(page)


def test_a_network_of_many_layers_stays_small_and_fits(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "res152_3bit.pth.tar", "ResNet-152 (ImageNet)", "apot-v2", size=64)
    page = render_page(apot_export.inspect(tmp_path / "res152_3bit.pth.tar"))
    assert len(page) < 1_000_000
    assert "35 times" in page  # blocks of the third stage
    seen: Any = probe(find_browser(), tmp_path, page, WIDTHS[0])
    assert seen["scrollWidth"] <= seen["width"]
    assert len(page.split('class="box')) - 1 < 60


@here
def test_the_command_writes_it(tmp_path: Path) -> None:
    result = run("inspect", EXPORT, "--html", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "page.html").read_text() == render_page(apot_export.inspect(EXPORT))
    assert "multiply-accumulates" in result.stdout
    result = run("inspect", CHECKPOINT, "--html", tmp_path / "none" / "page.html")
    assert result.exit_code == 2
    assert "--html" in result.stderr


# --- drawings -------------------------------------------------------------------------------------


def test_heights_of_columns_are_linear() -> None:
    chart = ColumnChart(title="t", axis="a", names="abc", values=[0, 2, None], beside=[4, 1, 0])
    zero, half, none = chart.columns
    assert (zero.height, none.height) == (0, 0)
    assert zero.mark is not None
    assert half.height * 2 == pytest.approx(chart.base - zero.mark)
    assert [name for _, name in chart.grid] == ["0", "1", "2", "3", "4"]
    assert half.says == "2, b: 2; : 1"


@pytest.mark.parametrize("largest", [1e-9, 0.3, 1.0, 99.9, 1e12])
def test_ticks_are_few_and_reach_the_largest(largest: float) -> None:
    ticks = round_ticks(largest)
    assert ticks[0] == 0
    assert ticks[-2] < largest <= ticks[-1]
    assert 3 <= len(ticks) <= 7


def test_stems_stand_at_levels_and_are_as_high_as_they_are_many(exported: Path) -> None:
    found = apot_export.inspect(exported / EXPORT)

    for picture, layer in zip(distributions(found.network), found.levels.layers, strict=True):
        drawn = LevelsDrawing(picture, layer)
        assert drawn.weights == ""
        assert sorted(count for _, count in picture.levels) == sorted(n for _, n in layer.histogram)
        used = [count for _, count in picture.levels if count]
        tallest = [stem for stem in drawn.stems.split("M") if stem.endswith("V0")]
        assert len(tallest) == sum(round(100 * (1 - count / max(used))) == 0 for count in used)


def test_histograms_count_the_weights_before_quantization(exported: Path) -> None:
    found = apot_export.inspect(exported / EXPORT)
    for picture in distributions(found.network, found.source):
        source, coded = found.source.layers[picture.layer], found.network.layers[picture.layer]
        assert isinstance(coded, CodedLayer)
        assert [value for value, _ in picture.levels] == pytest.approx(
            np.unique(coded.codebook.levels) * coded.step
        )
        before = source.weight.astype(np.float64)
        if isinstance(source.quantizer, WeightQuantizer) and source.quantizer.std is not None:
            before = (before - before.mean()) / before.std(ddof=1)
        edges = np.linspace(-picture.reach, picture.reach, BINS + 1)
        counts, _ = np.histogram(np.clip(before, edges[0], edges[-1]), edges)
        assert picture.weights is not None
        assert sum(picture.weights) == before.size
        assert np.abs(counts - picture.weights).sum() <= 4  # rounding at an edge


def test_rectangles_of_memory_do_not_overlap(exported: Path) -> None:

    network = apot_export.inspect(exported / EXPORT).network
    storages = activations(network, value_bits(network))
    drawn = MemoryDrawing(storages, bytes_of(storages))
    assert sum(len(one.values) for one in storages) == len(network.shapes)
    rectangles = drawn.rectangles
    for one in rectangles:
        assert 0 <= one.y <= one.y + one.height <= drawn.peak
        assert one.x + one.width <= drawn.steps
        for other in rectangles:
            apart = one is other or (
                one.x + one.width <= other.x
                or other.x + other.width <= one.x
                or one.y + one.height <= other.y
                or other.y + other.height <= one.y
            )
            assert apart, (one, other)
