"""Programs of other projects (make, compilers, simulators): there where CI is set, else perhaps."""

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
    # `make test` tells the make of a test that it is a part of it, and then it says where it is.
    outside = {
        name: one for name, one in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    return subprocess.run(
        command, cwd=folder, env=outside, capture_output=True, text=True, check=False
    )


def make(folder: Path, *targets: str) -> str:
    """Run a project's Makefile, and return what it prints; a failure has it as its message."""
    done = call(folder, "make", *targets)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout
