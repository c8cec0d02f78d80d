"""An export is the old one or the new one, complete, wherever its writer is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from apot_export.artifacts.directory import MANIFEST, ONNX_MODEL, PACKED_MODEL

FILES = ["export", *(f"export/{name}" for name in sorted((MANIFEST, ONNX_MODEL, PACKED_MODEL)))]
BEFORE = {
    "fresh": {"nothing", "new"},
    "replacing": {"old", "new"},
    "attach": {"old", "new"},
    # Two steps: between them the old export is in the temporary folder, and the next run finds it.
    "without exchange": {"old", "nothing", "new"},
}


@pytest.mark.parametrize("scenario", BEFORE)
def test_a_writer_is_killed_at_every_step(scenario: str, tmp_path: Path, project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kill_points", scenario, str(tmp_path / "work")],
        capture_output=True,
        encoding="utf-8",
        cwd=project,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) > 20
    assert {kill["before"] for kill in kills} == BEFORE[scenario]
    for kill in kills:
        assert (kill["after"], kill["left"]) == ("new", FILES), kill
    nothing = [kill["where"] for kill in kills if kill["before"] == "nothing"]
    if scenario == "without exchange":
        assert len(nothing) == 1, nothing
