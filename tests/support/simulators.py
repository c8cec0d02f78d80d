"""Programs that run SystemVerilog: there where CI is set, elsewhere perhaps."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def require(*programs: str) -> None:
    """Skip a test where a program is missing; in CI that is a failure."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"CI must have {', '.join(missing)}")
    if missing:
        pytest.skip(f"there is no {', '.join(missing)}")


def call(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder."""
    command = [shutil.which(program) or program, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def make(folder: Path, *targets: str) -> str:
    """Run a project's Makefile, and return what it prints; a failure has it as its message."""
    done = call(folder, "make", *targets)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout
