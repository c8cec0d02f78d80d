"""The documents agree with the code: links, dotted names, packages, and the table of imports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import apot_export
from tests.test_house import ARROWS

ROOT = Path(apot_export.__path__[0]).parent
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "conformance/README.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
]
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
PATHS = re.compile(r"(?<![\w/])(?:apot_export|cli|tests|benchmarks|examples|docs)/[\w./-]*\w")
of_every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def missing_links(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:")):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists() or (anchor and anchor not in anchors(file.read_text("utf-8"))):
            yield target


@of_every_document
def test_links_lead_somewhere(path: Path) -> None:
    assert list(missing_links(path)) == []


@of_every_document
def test_files_that_are_named_exist(path: Path) -> None:
    named = set(PATHS.findall(path.read_text(encoding="utf-8").replace("NAME.json", "")))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def imports(name: str) -> bool:
    """Tell whether a dotted name is a module, or an attribute of one."""
    found: object = apot_export
    parts = name.split(".")
    for i, part in enumerate(parts[1:], 2):
        if isinstance(found, ModuleType) and not hasattr(found, part):
            try:
                import_module(".".join(parts[:i]))
            except ModuleNotFoundError:
                return False
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


@of_every_document
def test_dotted_names_can_be_imported(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.name == "CHANGELOG.md":  # the left column of its table holds names that went away
        text = re.sub(r"^\| `.*?\|", "", text, flags=re.MULTILINE)
    names = set(re.findall(r"(?<![\w./])apot_export(?:\.\w+)+", text))
    assert [name for name in sorted(names) if not imports(name)] == []


def test_every_package_has_a_paragraph() -> None:
    packages = {path.parent.name for path in (ROOT / "apot_export").glob("*/__init__.py")}
    described = re.findall(r"^### `(\w+)`\n\n\S", ARCHITECTURE, re.MULTILINE)
    assert len(described) == len(set(described))
    assert set(described) == packages | {"cli"}


def test_the_table_of_imports_is_the_one_that_is_enforced() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*)\|$", ARCHITECTURE, re.MULTILINE)
    stated = {
        package: set(re.findall(r"`(\w+)`", allowed)) - {"errors"} for package, allowed in rows
    }
    enforced = {
        package: allowed - {"errors", "arguments", "budgets", "_version"}
        for package, allowed in ARROWS.items()
        if package not in {"errors", "arguments", "budgets", "_version"}
    }
    assert stated == enforced


def test_the_index_names_every_document() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    others = [path.name for path in (ROOT / "docs").glob("*.md") if path.name != "index.md"]
    assert [name for name in others if f"]({name})" not in index] == []
