"""The notebooks in examples/ run from top to bottom and show what they compute."""

from __future__ import annotations

import ast
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


NOTEBOOKS = ("tour.ipynb", "inspect.ipynb")


def shown(cell: dict[str, Any]) -> str:
    """Return what a cell shows in the notebook: what it prints, then its last value."""
    parts = []
    for output in cell["outputs"]:
        parts += output["text"] if "text" in output else output["data"]["text/html"]
    return "".join(parts)


def run(source: str, names: dict[str, Any]) -> str:
    """Run a cell; return what it shows."""
    tree, value = ast.parse(source), None
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as found:
        exec(compile(tree, "cell", "exec"), names)  # noqa: S102 - of the project's own notebook
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307
    return found.getvalue() + str(getattr(value, "_repr_html_", str)())


def without_training(text: str) -> str:
    for pattern in OF_THE_TRAINING:
        text = re.sub(pattern, "#", text, flags=re.MULTILINE)
    return text


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebook_shows_what_it_computes(
    name: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = json.loads((project / "examples" / name).read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = notebook["cells"]
    assert len(cells) <= 20
    assert len({cell["id"] for cell in cells}) == len(cells)
    monkeypatch.chdir(project / "examples")
    monkeypatch.syspath_prepend(project / "examples")
    names: dict[str, Any] = {}
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    with torch.random.fork_rng():
        for cell in code:
            found = run("".join(cell["source"]), names)
            assert without_training(found) == without_training(shown(cell))
    assert any(word in shown(cell) for cell in code for word in ("PASS", "McNemar"))
