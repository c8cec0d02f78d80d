"""What notebooks and the interactive prompt show."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

import apot_export
from apot_export.conversion.convert import convert
from apot_export.inspection.identify import identify
from apot_export.network.shown import Shown
from tests.support.commands import CHECKPOINT, EXPORT

LONGEST = 600


class Cells(HTMLParser):
    """The texts between tags; every opened element must be closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def assert_is_short(found: object, *says: str) -> None:
    assert isinstance(found, Shown)
    line, html = repr(found), found._repr_html_()
    assert len(line) < LONGEST
    assert "\n" not in line
    assert re.match(rf"<{type(found).__name__} .*>$", line)
    cells = Cells()
    cells.feed(html)
    assert not cells.open
    assert all(value in line and value in cells.texts for value in says), line


def test_networks_and_layers_are_short(exported: Path) -> None:
    packed = apot_export.load_packed(exported / EXPORT)
    assert_is_short(packed, "1 x 8 x 8", "10")
    assert_is_short(packed.network, "1 x 8 x 8")
    for name, layer in packed.layers.items():
        assert_is_short(layer, name)
    assert_is_short(apot_export.compile_network(packed.network, threads=1), "1 x 8 x 8")


def test_results_are_short(exported: Path, tmp_path: Path) -> None:
    export, checkpoint = tmp_path / "export", exported / CHECKPOINT
    assert_is_short(convert(checkpoint, export), str(export), "apot")
    shutil.copy(checkpoint, tmp_path)
    assert_is_short(apot_export.convert_export(export, tmp_path / "cpu", target="cpu"), "cpu")
    report = apot_export.verify(export, dataset="digits", limit=20, checkpoint=checkpoint)
    assert_is_short(report, "PASS", "20 of digits")
    assert_is_short(apot_export.tune(export, seconds=0.1, threads=1), str(export))
    assert_is_short(identify(checkpoint), str(checkpoint))
    found = apot_export.compare(export, export, dataset="digits", limit=20)
    assert_is_short(found, "100.00%")


def test_inspections_are_short(exported: Path) -> None:
    found = apot_export.inspect(exported / EXPORT)
    assert_is_short(found, "export")
    assert_is_short(found.overview, "export")
    assert_is_short(found.cost, f"{found.cost.macs:,}")
    assert_is_short(found.alphas, "8")
    assert_is_short(found.bits, "10")
    assert_is_short(found.levels, "10")
    assert_is_short(found.weights, "10")


def test_names_with_marks_do_not_become_elements(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "<b>&amp;"
    shutil.copytree(exported / EXPORT, path)
    assert_is_short(apot_export.inspect(path), str(path))


def test_the_package_lists_its_public_names() -> None:
    assert dir(apot_export) == sorted(apot_export.__all__)
    assert set(apot_export._HOMES) | {"__version__"} == set(apot_export.__all__)
    for name in dir(apot_export):
        assert getattr(apot_export, name) is not None


@pytest.mark.parametrize("name", ["nothing", "Verify"])
def test_other_names_do_not_exist(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        getattr(apot_export, name)
