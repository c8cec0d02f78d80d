"""Drawings and tables for papers."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

import apot_export
from apot_export.artifacts.directory import ONNX_MODEL, PACKED_MODEL
from apot_export.errors import ExportError, MissingPackageError
from apot_export.inspection.latex import latex_tables
from apot_export.inspection.page import render_page
from apot_export.inspection.plots import LevelRow, level_rows, write_figure, write_plots
from apot_export.presentation.latex import escaped, latex_table
from apot_export.presentation.tables import Column, View
from tests.support.commands import EXPORT, here, run

NAMES = {
    *("network", "levels", "errors", "weight_thresholds", "activation_thresholds", "energy"),
    *("bytes", "memory"),
}
DOTS = 300


def test_png_files_are_a_column_wide_and_the_same_each_time(exported: Path, tmp_path: Path) -> None:
    found = apot_export.inspect(exported / EXPORT)
    paths = write_plots(found, tmp_path / "new" / "one", "png")
    assert {path.name for path in paths} == {f"{name}.png" for name in NAMES}
    again = write_plots(apot_export.inspect(exported / EXPORT), tmp_path / "two", "png")
    for one, other in zip(paths, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
        with Image.open(one) as image:
            assert image.width == 3.5 * DOTS
            assert image.height <= 9 * DOTS
            assert "Software" not in image.info
            colours = image.convert("RGB").getcolors(1 << 24) or []
            assert len(colours) > 3


def test_svg_files_are_the_same_each_time_and_load_nothing(exported: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        write_plots(apot_export.inspect(exported / EXPORT), folder, "svg")
    for name in NAMES:
        one, other = ((folder / f"{name}.svg").read_bytes() for folder in folders)
        assert one == other
        root = ET.fromstring(one)  # noqa: S314 - our own file
        assert root.get("width") == "252pt"
        assert b"dc:date" not in one
        addresses = [v for e in root.iter() for k, v in e.attrib.items() if k.endswith("href")]
        assert all(address.startswith("#") for address in addresses)


def test_stems_stand_where_they_are_said_to() -> None:
    rows = [LevelRow("a", [(-1, 0.5), (0.25, 1)]), LevelRow("b", [(0, 1)], [(-1, 0), (1, 0.5)])]
    axes = level_rows(rows, "axis", ends=("low", "high")).axes[0]
    lines: list[Any] = [c for c in axes.collections if type(c).__name__ == "LineCollection"]
    first = [segment.tolist() for segment in lines[1].get_segments()]
    assert first == [[[-1, 1], [-1, 1.45]], [[0.25, 1], [0.25, 1.9]]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_names_are_neither_formulas_nor_marks(kind: str, tmp_path: Path) -> None:
    names = [r"$\frac{1", "_^$x$", "\u202elayer", "\u5c64"]
    figure = level_rows([LevelRow(name, [(0, 1)]) for name in names], "a", ends=("-", "+"))
    write_figure(figure, tmp_path / f"a.{kind}")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [*names[:2], r"\u202elayer", names[3]]


def test_what_has_no_weights_before_quantization_has_no_drawing_of_errors(
    exported: Path, tmp_path: Path
) -> None:
    packed = tmp_path / PACKED_MODEL
    packed.write_bytes((exported / EXPORT / PACKED_MODEL).read_bytes())
    paths = write_plots(apot_export.inspect(packed), tmp_path / "plots", "svg")
    assert {path.stem for path in paths} == NAMES - {"errors"}


def test_sign_vectors_have_neither_levels_nor_errors(reference: Path, tmp_path: Path) -> None:
    found = apot_export.inspect(reference / "checkpoints/ALQ/lenet5_model.pth")
    paths = write_plots(found, tmp_path, "svg")
    assert {path.stem for path in paths} == {"network", "energy", "bytes", "memory"}
    page = render_page(found)
    assert "No weight differs." in page
    assert page.count("No layer has clipping thresholds") == 1


def test_errors_write_nothing(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = apot_export.inspect(exported / EXPORT)
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="folder cannot be made"):
        write_plots(found, tmp_path / "file", "png")
    alone = tmp_path / ONNX_MODEL
    alone.write_bytes((exported / EXPORT / ONNX_MODEL).read_bytes())
    with pytest.raises(ExportError, match="packed file"):
        write_plots(apot_export.inspect(alone), tmp_path / "none", "png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"apot-export\[plot\]"):
        write_plots(found, tmp_path / "none", "png")
    assert not (tmp_path / "none").exists()


# --- LaTeX ----------------------------------------------------------------------------------------


def test_marks_of_latex_are_escaped() -> None:
    hostile = r"a_b & 50% $x$ #1 {c} ~ ^ \input{/etc/passwd}" + "\n"
    shown = escaped(hostile)
    bare = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum)\{\}|\\[&%$#_{}]", "", shown)
    assert not set(r"&%$#_{}~^\\") & set(bare)
    assert "\n" not in shown


def test_tables_of_latex_have_a_cell_for_every_column(exported: Path) -> None:
    text = latex_tables(apot_export.inspect(exported / EXPORT))
    tables = re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tables) == 7
    for form, body in tables:
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert lines
        for line in lines:
            assert len(re.split(r"(?<!\\)&", line)) == len(form), line
    for mark in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{table*}", r"\end{table*}"):
        assert text.count(mark) == 7
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    found = apot_export.inspect(exported / EXPORT)
    assert f"{found.cost.macs:,}" in text


def test_long_tables_break_and_wide_ones_lose_columns() -> None:
    columns = [
        Column(key="n", title="n"),
        *(Column(key="n", title="x" * 30, leaves=place) for place in range(1, 5)),
    ]
    text = latex_table(View(columns=columns, rows=[{"n": -1.5}] * 50), "c")
    assert r"\begin{longtable}{rrrr}" in text
    assert text.count(r"\endhead") == 1
    assert "$-$1.5" in text


@here
def test_the_command_writes_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = {"--svg": tmp_path / "svg", "--png": tmp_path / "png", "--latex": tmp_path / "t.tex"}
    result = run("inspect", EXPORT, *(part for pair in files.items() for part in pair))
    assert result.exit_code == 0, result.output
    assert {path.stem for path in files["--svg"].iterdir()} == NAMES
    assert {path.stem for path in files["--png"].iterdir()} == NAMES
    assert files["--latex"].read_text() == latex_tables(apot_export.inspect(EXPORT))
    result = run("inspect", EXPORT, "--latex", tmp_path)
    assert result.exit_code == 2
    assert "--latex" in result.stderr
