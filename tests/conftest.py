"""Where reference data comes from, and the settings of property tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

REFERENCE_VARIABLE = "APOT_EXPORT_REFERENCE"

settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


@pytest.fixture(scope="session")
def reference() -> Path:
    """Return the folder of published checkpoints, datasets and golden outputs."""
    project = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get(REFERENCE_VARIABLE, project.parent / "shared"))
    if not (folder / "golden").is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI must have the reference data; {folder} has none")
        pytest.skip(f"no reference data in {folder}; set {REFERENCE_VARIABLE}")
    return folder


@pytest.fixture(scope="session")
def project() -> Path:
    """Return the project's root folder."""
    return Path(__file__).resolve().parent.parent
