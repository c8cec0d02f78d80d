"""Lines of the documentation, run as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASH = "/bin/bash"


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a language in a page of the documentation."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found, (page, language)
    return found


def environment() -> dict[str, str]:
    """Return variables with which commands of this environment are found."""
    folders = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    return {**os.environ, "PATH": os.pathsep.join([*folders, os.environ["PATH"]])}


def run_lines(script: str) -> str:
    """Run lines of a page in the project's folder; return what they print."""
    done = subprocess.run(
        [BASH, "-euc", script],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (script, done.stdout, done.stderr)
    return done.stdout
