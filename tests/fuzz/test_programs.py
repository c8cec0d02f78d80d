"""Integer programs that are wrong anywhere: both builds of the interpreter agree, in bounds."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from apot_export.errors import KernelError
from tests.fuzz.programs import OPTIONS, build, write_seeds

RUNS = 6_000
LEAST_COVERAGE = 1250
"""Of the 2,790 edges of both builds. What is checked before a checksum are about 100."""


def test_changed_programs_never_leave_their_memory(tmp_path: Path) -> None:
    try:
        program = build(tmp_path)
    except KernelError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"there is no clang with libFuzzer: {error}")
    command = [str(program), *OPTIONS, f"-runs={RUNS}", "-seed=1"]
    prefix = f"-artifact_prefix={tmp_path}/"
    done = subprocess.run(
        [*command, prefix, str(write_seeds(tmp_path / "seeds"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {RUNS} runs" in done.stderr
    assert int(re.findall(r"cov: (\d+)", done.stderr)[-1]) > LEAST_COVERAGE
