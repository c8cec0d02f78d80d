"""A fault in any side, in what it shows or in how it runs, is found and named."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from apot_export.network.comparison import LOGITS
from apot_export.verification import _run
from apot_export.verification.page import render_page
from apot_export.verification.report import Report
from apot_export.verification.running.sides import OpenedSides, open_sides
from tests.support.workshop import DIGITS, LAYER, Workshop, open_workshop

Values = dict[str, NDArray[Any]]
ALL = ("ort-cpu", "openvino", "native", "oracle", "packed")
SHOWN = ("openvino", "native", "oracle", "packed")
"""Those with values of their own; faults of the ONNX model's are in `test_planted_faults`."""
NODE = f"{LAYER}.sums"


@pytest.fixture(scope="module")
def workshop(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    pytest.importorskip("openvino")
    return open_workshop(project / DIGITS, tmp_path_factory.mktemp("sides"))


def verified(
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[OpenedSides], None],
    side: str,
    **options: Any,
) -> Report:
    def opened(*arguments: Any, **more: Any) -> OpenedSides:
        found = open_sides(*arguments, **more)
        plant(found)
        return found

    monkeypatch.setattr(_run, "open_sides", opened)
    sides = "ort" if side == "ort-cpu" else f"ort,{side}"
    return workshop.verify(workshop.export, sides=sides, limit=12, attach=False, **options)


def shown(side: str, change: Callable[[Values], None]) -> Callable[[OpenedSides], None]:
    """Change what a side shows, and leave what it returns."""

    def plant(opened: OpenedSides) -> None:
        right = opened.values[side]

        def wrong(images: NDArray[np.float32]) -> Values:
            values = {name: array.copy() for name, array in right(images).items()}
            change(values)
            return values

        opened.values[side] = wrong

    return plant


def run(
    side: str, change: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
) -> Callable[[OpenedSides], None]:
    """Change what a side returns, of its images and logits, and leave what it shows."""

    def plant(opened: OpenedSides) -> None:
        right = opened.executors[side]
        opened.executors[side] = lambda images: change(images, right(images))

    return plant


def one_level(values: Values) -> None:
    levels = values[f"{LAYER}.levels"]
    place = np.unravel_index(int(levels[3].argmax()), levels[3].shape)
    levels[3][place] = 0


def one_sum(values: Values) -> None:
    values[NODE][1, 2, 1, 1] += 1


def one_logit(values: Values) -> None:
    values[LOGITS][5, 3] *= np.float32(1.001)


def without_levels(values: Values) -> None:
    del values[f"{LAYER}.levels"]


FAULTS = {"level": one_level, "sum": one_sum, "logit": one_logit, "no levels": without_levels}


@pytest.mark.parametrize(
    ("side", "fault"),
    [*product(SHOWN, ("level", "sum", "logit")), ("openvino", "no levels")],
)
def test_a_value_that_a_side_shows(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, side: str, fault: str
) -> None:
    report = verified(workshop, monkeypatch, shown(side, FAULTS[fault]), side)
    assert report.verdict == "FAIL"
    assert report.proofs[side].failures
    assert not report.proofs["ort-cpu"].failures
    said = [failure for failure in report.failures if failure.startswith(f"{side}: ")]
    assert said
    assert (LOGITS if fault == "logit" else LAYER) in " ".join(said)


def off_by_one_percent(_: NDArray[Any], logits: NDArray[Any]) -> NDArray[Any]:
    return logits * np.float32(1.01)


def shifted_by_noise(_: NDArray[Any], logits: NDArray[Any]) -> NDArray[Any]:
    """Add so little to one class that no image changes its class."""
    return logits + np.eye(10, dtype=np.float32)[4] * np.float32(2e-3)


def not_a_number(_: NDArray[Any], logits: NDArray[Any]) -> NDArray[Any]:
    return np.full_like(logits, np.nan)


RUNS = {"scaled": off_by_one_percent, "shifted": shifted_by_noise, "NaN": not_a_number}
CASES = [*product(ALL, ("shifted",)), ("openvino", "scaled"), ("native", "NaN")]


@pytest.mark.parametrize(("side", "fault"), CASES)
def test_logits_of_a_side_as_it_runs(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, side: str, fault: str
) -> None:
    report = verified(workshop, monkeypatch, run(side, RUNS[fault]), side)
    assert report.verdict == "FAIL"
    assert f"{side} computes other logits" in " ".join(report.failures)
    assert report.proofs[side].logits.explained == 0


@pytest.mark.parametrize(
    ("side", "size"),
    [("ort-cpu", 1), ("ort-cpu", 5), ("openvino", 2), ("openvino", 7), ("openvino", 12)],
)
def test_a_fault_at_one_size_of_batch(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, side: str, size: int
) -> None:
    """At the sizes of small applications, and at those of the run: 12 images in batches of 7."""

    def change(images: NDArray[Any], logits: NDArray[Any]) -> NDArray[Any]:
        return logits * np.float32(1.01) if len(images) == size else logits

    report = verified(workshop, monkeypatch, run(side, change), side, batch_size=7)
    assert report.verdict == "FAIL"
    assert f"in batches of {size}, " in " ".join(report.proofs[side].failures)


def test_reports_show_every_side(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = verified(workshop, monkeypatch, shown("native", one_sum), "native,openvino")
    assert list(report.proofs) == ["ort-cpu", "native", "openvino"]
    found = report.to_json()["proofs"]
    assert found["native"]["accumulators"]["mismatches"] == 1
    assert found["openvino"]["levels"]["compared"] > 0
    assert found["ort-cpu"]["logits"]["explained"] == found["ort-cpu"]["logits"]["images"] > 0
    page = render_page(report)
    assert "1 of " in page
    assert report.proofs["native"].failures[0].replace("'", "&#39;") in page
    import_module("apot_export_cli._render_verify").print_report(report)
    printed = capsys.readouterr().out
    assert "FAIL  native" in printed
    assert "ok    openvino" in printed
