"""Exports as devices read them, with an integer network or without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apot_export.artifacts.directory import PACKED_MODEL, read_manifest
from apot_export.devices.export import open_export
from apot_export.errors import ExportError
from apot_export.integer import run_integer
from tests.support.commands import EXPORT, run
from tests.support.networks import images_of


@pytest.mark.usefixtures("folder")
def test_an_export_without_an_integer_network_gets_one() -> None:
    plain = open_export(EXPORT)
    assert "integer" not in read_manifest(Path(EXPORT))
    assert run("convert", EXPORT, "-o", "integer", "--integer").exit_code == 0
    written = open_export("integer")
    assert plain.manifest["integer"] == written.manifest["integer"]
    images = images_of(plain.coded, 3)
    expected = run_integer(written.network, images)
    np.testing.assert_array_equal(run_integer(plain.network, images), expected)
    assert (plain.path, plain.name) == (Path(EXPORT), written.name)


@pytest.mark.usefixtures("folder")
def test_a_damaged_export_is_refused() -> None:
    path = Path(EXPORT) / PACKED_MODEL
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ExportError, match="not the one that was written"):
        open_export(EXPORT)
