"""benchmarks/gpu.py runs through on a machine without a GPU, so that it will where there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from apot_export.conversion.convert import convert
from apot_export.conversion.integer_choices import IntegerChoices
from tests.support.workshop import DIGITS


def test_every_step_runs_without_a_gpu(project: Path, tmp_path: Path) -> None:
    export = tmp_path / "digits"
    convert(project / DIGITS, export, target="cuda", integer=IntegerChoices())
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", export, "--dry-run", "--output", tmp_path],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything holds" in done.stdout
    (results,) = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["exports"].values()
    assert list(results) == ["probe", "speed", "tf32", "integer", "verify"]
    assert [one["exact"] for one in results["probe"]["found"]] == [True] * 4
    assert results["tf32"]["differing"] == 0 < results["tf32"]["integers"]
    assert results["integer"]["differing"] == {"ort-cpu": 0, "c": 0}
    assert results["verify"]["verdict"] == "PASS"
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "| digits | verdict | PASS on 8 images |" in page
    assert "failed" not in page
    assert "not run" not in page
