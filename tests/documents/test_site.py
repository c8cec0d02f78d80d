"""The documentation as a site: it builds without a warning, and needs no network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from apot_export import __version__
from tests.support.pages import ROOT

LOADED = re.compile(r"<(?:link|script|img)\b[^>]*?\b(?:href|src)=\"(?:https?:)?//", re.IGNORECASE)
IMPORTED = re.compile(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", re.IGNORECASE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("sphinx") is None:
        message = "the site is written by Sphinx: pip install --editable '.[docs]'"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs"]
    command += ["-d", str(folder / "doctrees"), ".", str(folder / "html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    return folder / "html"


def test_every_document_has_a_page(site: Path) -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    pages = {page.relative_to(site).with_suffix(".md") for page in site.rglob("*.html")}
    assert {page.relative_to(ROOT) for page in documents} <= pages
    assert 'url=docs/index.html"' in (site / "index.html").read_text(encoding="utf-8")
    assert "apot_export.load_packed" in (site / "docs/api.html").read_text(encoding="utf-8")


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not LOADED.search(page.read_text(encoding="utf-8")), page
    for style in site.rglob("*.css"):
        assert not IMPORTED.search(style.read_text(encoding="utf-8")), style


def test_options_keep_their_two_dashes(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not re.findall(r"[ >][\u2013\u2014][a-z]\w*", page.read_text(encoding="utf-8")), page


def test_the_citation_names_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation
