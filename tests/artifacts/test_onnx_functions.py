"""Bodies of `apot` operators: complete text, standard operators, each of its own name."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from apot_export.artifacts.onnx_model import DOMAIN
from apot_export.artifacts.onnx_model.functions import function

FOLDER = resources.files("apot_export.artifacts.onnx_model") / "functions"
NAMES = [
    name
    for file in sorted(FOLDER.iterdir(), key=lambda file: file.name)
    for name in re.findall(r"^\w+", file.read_text(encoding="utf-8"), re.MULTILINE)
]


def test_no_body_stands_twice() -> None:
    assert len(NAMES) == len(set(NAMES)) > 25


@pytest.mark.parametrize("name", NAMES)
def test_every_body_is_of_standard_operators(name: str) -> None:
    body = function(name)
    assert (body.domain, body.name, body.overload) == (DOMAIN, name, "")
    assert {node.domain for node in body.node} == {""}
    made = {name for node in body.node for name in node.output}
    assert set(body.output) <= made
    assert not set(body.input) & made
