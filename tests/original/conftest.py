"""The checkpoint of the embedded example, which containers of all kinds are made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from apot_export.original.checkpoint import load_checkpoint
from tests.support.checkpoint_files import Tensors, packed_tensors
from tests.support.workshop import DIGITS


@pytest.fixture(scope="session")
def state(project: Path) -> Tensors:
    return load_checkpoint(project / DIGITS).state


@pytest.fixture(scope="session")
def codes(project: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the tensors of the packed file that the checkpoint itself becomes."""
    return packed_tensors(project / DIGITS, tmp_path_factory.mktemp("export"))
