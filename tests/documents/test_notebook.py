"""The notebook in examples/ runs from top to bottom and prints what it shows."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

OF_THE_TRAINING = (r"\d+\.\d(?= %)", r"(?<=levels of this layer:)[ \d-]+", r"^ *[\d,]+(?=  \w)")
"""What another processor may train otherwise, and the sizes of files."""


def printed(cell: dict[str, Any]) -> str:
    return "".join(line for output in cell["outputs"] for line in output["text"])


def without_training(text: str) -> str:
    for pattern in OF_THE_TRAINING:
        text = re.sub(pattern, "#", text, flags=re.MULTILINE)
    return text


def test_the_notebook_prints_what_it_shows(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((project / "examples/tour.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = notebook["cells"]
    assert len(cells) <= 15
    assert len({cell["id"] for cell in cells}) == len(cells)
    monkeypatch.chdir(project / "examples")
    monkeypatch.syspath_prepend(project / "examples")
    names: dict[str, Any] = {}
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    with torch.random.fork_rng():
        for cell in code:
            with contextlib.redirect_stdout(io.StringIO()) as found:
                exec("".join(cell["source"]), names)  # noqa: S102 - of the project's own notebook
            assert without_training(found.getvalue()) == without_training(printed(cell))
    assert any("PASS" in printed(cell) for cell in code)
