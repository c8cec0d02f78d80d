"""The examples in the product's docstrings."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

FOLDERS = {
    name: Path(import_module(name).__path__[0]) for name in ("apot_export", "apot_export_cli")
}
MODULES = sorted(
    ".".join((name, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
    for name, folder in FOLDERS.items()
    for path in folder.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_there_are_examples_in_both_packages() -> None:
    assert {name.split(".")[0] for name in MODULES} == set(FOLDERS)


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_right(name: str) -> None:
    failed, attempted = doctest.testmod(import_module(name))
    assert failed == 0
    assert attempted > 0
