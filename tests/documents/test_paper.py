"""The picture and the table of examples/paper."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest

SVG = "{http://www.w3.org/2000/svg}"


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
    names = [one.text for one in root.iter(f"{SVG}text")]
    marks = [one.get("d", "") for one in root.iter(f"{SVG}path") if one.get("fill") == "none"]
    assert len(marks) == 12
    width = float(root.get("viewBox", "").split()[2])
    for row, path in enumerate(marks):
        bits, name = str(names[row]).split(" bit ")
        places = [float(x) for x in re.findall(r"M([\d.]+) ", path)]
        assert 0 < places[0] < places[-1] < width
        middle, reach = (places[0] + places[-1]) / 2, (places[-1] - places[0]) / 2
        found = [(x - middle) / reach for x in places]
        assert found == pytest.approx(figures.levels_of(name, int(bits)), abs=1e-3)


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
