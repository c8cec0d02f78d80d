"""Tables of `inspect`: no number is cut, on terminals of any width, in logs, and in CSV."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len
from safetensors.torch import save_file

import apot_export
from tests.support.commands import CHECKPOINT, EXPORT, document, here, run

WIDTHS = (60, 66, 80, 100, 120, 160, 200)
VIEWS = ("overview", "cost", "levels", "weights", "alphas", "bits", "integer", "identify")
INTEGER = "whole"
DIGEST = 64
"""Characters of the longest word, which is not broken."""
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")


def source(view: str) -> object:
    return {"integer": INTEGER, "identify": CHECKPOINT}.get(view, EXPORT)


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let results go to a terminal, as far as printing asks."""
    monkeypatch.setattr("apot_export_cli._tables.is_terminal", lambda: True)
    monkeypatch.setattr("apot_export_cli._render.is_terminal", lambda: True)


def converted() -> None:
    run("convert", CHECKPOINT, "-o", INTEGER, "--integer", "--fraction-bits", "10")


@here
@pytest.mark.usefixtures("on_a_terminal")
def test_no_number_is_cut_at_any_width() -> None:
    converted()
    for view in VIEWS:
        whole = set(NUMBER.findall(run("inspect", view, source(view), "--wide").stdout))
        for width in WIDTHS:
            shown = run("inspect", view, source(view), COLUMNS=str(width)).stdout
            assert "…" not in shown
            assert "..." not in shown
            lines = shown.splitlines()
            broken = [line for line in lines if max(map(len, line.split()), default=0) < DIGEST]
            long = [line for line in broken if cell_len(line) > width]
            assert long == [], (view, width)
            table = [line for line in lines if len(re.findall(r"\d", line)) > 3]
            assert set(NUMBER.findall("\n".join(table))) <= whole, (view, width)


@here
@pytest.mark.usefixtures("on_a_terminal")
def test_columns_that_do_not_fit_are_named() -> None:
    narrow = run("inspect", "cost", EXPORT, COLUMNS="80").stdout
    wide = run("inspect", "cost", EXPORT, "--wide", COLUMNS="80").stdout
    assert "Left out in this width (--wide shows them)" in narrow
    assert "float32 nJ, 45 nm" in wide.splitlines()[1]
    assert "Left out" not in wide


@here
def test_all_columns_are_in_logs() -> None:
    shown = run("inspect", "cost", EXPORT, COLUMNS="60").stdout
    assert shown.splitlines()[1].split("  ")[-1] == "float32 nJ, 7 nm"
    assert "Left out" not in shown


@here
@pytest.mark.parametrize("view", VIEWS)
def test_csv_and_plain_columns(view: str) -> None:
    if view == "integer":
        converted()
    table = [*csv.reader(io.StringIO(run("inspect", view, source(view), "--csv").stdout))]
    assert len(table) > 2
    assert {len(row) for row in table} == {len(table[0])}
    plain = run("inspect", view, source(view), "--plain").stdout.splitlines()
    if view not in {"alphas", "bits"}:
        assert len(plain) == len(table)
    assert "," not in plain[0].replace(", activation", "")


@here
def test_csv_has_all_digits() -> None:
    found = apot_export.inspect(EXPORT).cost
    rows = [*csv.DictReader(io.StringIO(run("inspect", "cost", EXPORT, "--csv").stdout))]
    assert [row["layer"] for row in rows] == [*(layer.layer for layer in found.layers), "all"]
    assert int(rows[-1]["macs"]) == found.macs
    assert float(rows[-1]["stored pJ 45 nm"]) == pytest.approx(found.forms[0].energy["45 nm"])


@here
@pytest.mark.parametrize(
    "name", [CHECKPOINT, EXPORT, EXPORT / "model.onnx", EXPORT / "model.apot.safetensors"]
)
def test_a_path_alone_gives_an_overview(name: object) -> None:
    content = document("inspect", name)
    assert content == document("inspect", "overview", name)
    assert content["weights"] == sum(
        layer["weights"] for layer in document("inspect", "bits", EXPORT)["layers"]
    )
    assert content["cost"]["macs"] == document("inspect", "cost", name)["macs"]
    shown = run("inspect", name).stdout
    assert f"{content['cost']['macs']:,} multiply-accumulates" in shown
    assert content["family"] in shown


@here
def test_an_onnx_model_alone_tells_of_itself() -> None:
    model = EXPORT / "model.onnx"
    model.rename("alone.onnx")
    content = document("inspect", "alone.onnx")
    assert content["model"]["opsets"]["apot"] == 1
    assert content["inputs"][0]["shape"] == [1, 8, 8]
    assert "cost" not in content
    refused = run("inspect", "cost", "alone.onnx")
    assert refused.exit_code == 2
    assert "name the export's folder" in refused.stderr


@here
def test_a_checkpoint_may_be_a_safetensors_file() -> None:
    state = torch.load(CHECKPOINT, weights_only=True)["state_dict"]
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, "own.safetensors")
    content = document("inspect", "own.safetensors", "--bits", 4)
    assert content["kind"] == "checkpoint"
    assert content["cost"] == document("inspect", CHECKPOINT)["cost"]
    assert len(document("inspect", "alphas", "own.safetensors")) == 8


@here
def test_a_damaged_onnx_model_is_refused() -> None:
    Path("broken.onnx").write_bytes(b"not a model")
    refused = run("inspect", "broken.onnx")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "The ONNX model cannot be parsed." in refused.stderr
