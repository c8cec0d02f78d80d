"""The accuracy that a checkpoint records judges the accuracy that `verify` measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import apot_export
from apot_export.artifacts.directory import read_manifest
from apot_export.original.record import Record
from apot_export.verification import Report
from apot_export.verification._verdict import compare_record
from tests.support.commands import run
from tests.support.workshop import DIGITS

CIFAR = "checkpoints/CIFAR10/result/res20_4bit/model_best.pth.tar"


@pytest.mark.parametrize(
    ("recorded", "hits", "ignored", "verdict"),
    [
        (0.90, 900, False, "ok"),
        (0.92, 900, False, "ok"),  # within the 99.9 % interval
        (0.929, 9000, False, "warning"),  # less than 3 points
        (0.931, 9000, False, "FAIL"),
        (0.931, 9000, True, "ignored"),
        (0.931, 900, False, "FAIL"),
        (0.931, 90, False, "ok"),  # few images tell little
        (0.45, 900, False, "warning"),  # better than the record: never the quantizer's fault
    ],
)
def test_the_rule(recorded: float, hits: int, ignored: bool, verdict: str) -> None:
    record = Record(key="best_prec", value=recorded)
    images = round(hits / 0.9)
    found = compare_record(record, hits, images, ignored=ignored)
    assert found.verdict == verdict
    assert found.interval[0] < found.measured < found.interval[1]


def recording(project: Path, path: Path, **values: Any) -> Path:
    """Write the digits checkpoint with other records, and convert it."""
    content = torch.load(project / DIGITS, weights_only=True, map_location="cpu")
    del content["best_prec"]
    torch.save({**content, **values}, path / "res8_4bit.pth.tar")
    return apot_export.convert(path / "res8_4bit.pth.tar", path / "export").path


def verified(export: Path, **options: Any) -> Report:
    return apot_export.verify(export, device="cpu", **options)


def test_the_digits_record_is_met(project: Path, tmp_path: Path) -> None:
    export = apot_export.convert(project / DIGITS, tmp_path / "export").path
    assert read_manifest(export)["record"] == {"key": "best_prec", "value": 0.986072423398}
    report = verified(export)
    assert report.record is not None
    assert (report.verdict, report.record.verdict, report.notes) == ("PASS", "ok", ())
    assert report.record.measured == pytest.approx(report.record.recorded)
    assert read_manifest(export)["verification"]["record"]["verdict"] == "ok"


def test_a_record_that_is_missed_fails_unless_it_is_ignored(project: Path, tmp_path: Path) -> None:
    """Without weight normalisation the network does not work; proofs alone cannot know."""
    export = apot_export.convert(
        project / DIGITS, tmp_path / "x", normalize_weights=False, trust_options=True
    ).path
    report = verified(export)
    assert report.verdict == "FAIL"
    (failure,) = report.failures
    assert "the checkpoint records 98.61% (best_prec)" in failure
    assert "other bits, another level set" in failure
    result = run("verify", export, "--device", "cpu", "--ignore-record")
    assert result.exit_code == 0, result.output
    assert "further below the recorded 98.61%" in " ".join(result.output.split())


def test_a_record_nearby_is_a_warning(project: Path, tmp_path: Path) -> None:
    report = verified(recording(project, tmp_path, best_acc1=torch.tensor(100.0)), limit=None)
    assert report.record is not None
    assert report.verdict == "PASS"
    assert report.record.verdict in ("ok", "warning")
    page = tmp_path / "page.html"
    result = run("verify", tmp_path / "export", "--device", "cpu", "--json", "--html", page)
    record = json.loads(result.stdout)["record"]
    assert set(record) == {"key", "recorded", "measured", "interval", "verdict"}
    assert record["recorded"] == 1
    assert "The checkpoint records 100.00%" in page.read_text(encoding="utf-8")


def test_values_that_are_no_accuracies_are_ignored_and_named(project: Path, tmp_path: Path) -> None:
    values = {"best_prec": float("nan"), "best_acc": -1, "acc": "high", "prec1": True}
    export = recording(project, tmp_path, **values)
    assert "record" not in read_manifest(export)
    report = verified(export, limit=20)
    assert (report.verdict, report.record) == ("PASS", None)
    (note,) = report.notes
    for text in ("best_prec (nan)", "best_acc (-1)", "acc (not a number)", "prec1 (not a number)"):
        assert text in note


def test_wrong_bits_fail_by_the_record(reference: Path, tmp_path: Path) -> None:
    export = apot_export.convert(
        reference / CIFAR, tmp_path / "res20", bits=3, trust_options=True
    ).path
    images = ("--dataset", "cifar10", "--data", reference / "datasets/cifar10-test-head")
    result = run("verify", export, *images, "--device", "cpu", "--limit", 100, "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["verdict"]) == (1, "FAIL")
    assert report["record"]["recorded"] == 0.9247
    assert report["record"]["measured"] < 0.89
    (failure,) = report["failures"]
    assert "other bits" in failure
    assert "--ignore-record" in failure
