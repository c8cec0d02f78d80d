"""The picture and the table of examples/paper."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest


@pytest.fixture(scope="module")
def figures(project: Path) -> ModuleType:
    spec = spec_from_file_location("figures", project / "examples/paper/figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_level_sets_are_those_of_the_paper(figures: ModuleType) -> None:
    for name in ("PoT", "APoT", "uniform"):
        assert figures.levels_of(name, 2) == [-1, 0, 1]
    assert figures.levels_of("PoT", 3)[3:] == [0, 0.25, 0.5, 1]
    assert figures.levels_of("uniform", 4)[7:] == [step / 7 for step in range(8)]
    # Sums of one of 0, 1, 1/2, 1/8 (2^0, 2^-1, 2^-3) and one of 0, 1/4, over the largest, 5/4.
    sums = sorted({a + b for a in (0, 1, 1 / 2, 1 / 8) for b in (0, 1 / 4)})
    assert figures.levels_of("APoT", 4)[7:] == pytest.approx([one / 1.25 for one in sums])
    assert [len(figures.levels_of(name, 5)) for name in ("PoT", "APoT", "uniform")] == [31] * 3


def test_every_level_is_drawn_in_its_place(figures: ModuleType, tmp_path: Path) -> None:
    figures.main(tmp_path, [])
    assert [path.name for path in tmp_path.iterdir()] == ["levels.svg"]
    root = ET.parse(tmp_path / "levels.svg").getroot()  # noqa: S314 - our own file
    assert root.get("width") == "252pt"
    axes = figures.picture().axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    marks = [one for one in axes.collections if hasattr(one, "get_segments")][:12]
    assert len(names) == len(marks) == 12
    for label, row in zip(reversed(names), marks, strict=True):  # drawn from below
        bits, name = label.split(" bit ")
        found = [float(segment[0][0]) for segment in row.get_segments()]
        assert found == pytest.approx(figures.levels_of(name, int(bits)))


def test_thresholds_are_those_of_the_training_log(
    figures: ModuleType, reference: Path, tmp_path: Path
) -> None:
    checkpoint = reference / "checkpoints/CIFAR10/result/res20_3bit/model_best.pth.tar"
    figures.main(tmp_path, [checkpoint])
    text = (tmp_path / "thresholds.md").read_text()
    assert "| res20_3bit | 92.51% | 20 | 0.934 to 1.687 | 0.966 to 2.574 |" in text
    log = (reference / "golden/res20_3bit_alphas.txt").read_text()
    logged = re.findall(r"weight alpha: ([\d.]+), activation alpha: ([\d.]+)", log)
    rows = re.findall(r"^\| layer\S+ \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(logged) == 20
    assert rows == [(f"{float(w):.3f}", f"{float(a):.3f}") for w, a in logged]
