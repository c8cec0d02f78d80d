"""Signals stop every verb with one line and the shell's exit code, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import CHECKPOINT, COMMAND, EXPORT, here

pytestmark = here

PLACES = {
    "before the verb": "apot_export_cli.convert",
    "while PyTorch is loaded": "torch.nn",
    "while it converts": "apot_export.conversion.faithful",
    "while it writes": "os.fsync",
}


def stopped(
    number: int, place: str, *arguments: str, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command to which a signal is sent where it imports a module or calls a function."""
    program = (
        "import os, sys\n"
        "from apot_export_cli.main import run\n"
        f"stop = lambda: os.kill(os.getpid(), {number:d})\n"
        "class Finder:\n"
        "    def find_spec(name, *_):\n"
        f"        if name == {place!r}: stop()\n"
        "sys.meta_path.insert(0, Finder)\n"
        f"if {place!r} == 'os.fsync': os.fsync = lambda _: stop()\n"
        "run()"
    )
    return subprocess.run(
        ["/bin/sh", "-c", f'{before}\nexec "$@"', "sh", sys.executable, "-c", program, *arguments],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize("place", PLACES)
def test_one_line_and_nothing_left(
    place: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    before = sorted(folder.rglob("*"))
    number = signal.SIGTERM if place == "while it converts" else signal.SIGINT
    done = stopped(number, PLACES[place], "convert", CHECKPOINT, "-o", "new/export")
    assert (done.returncode, done.stdout, done.stderr) == (
        128 + number,
        "",
        "Error: Interrupted.\n",
    )
    assert sorted(folder.rglob("*")) == before
    assert not [path for path in temporary.iterdir() if "inductor" not in path.name]  # PyTorch's


def test_compilers_are_ended_and_their_files_removed(tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\necho $PPID > {tmp_path}/parent\nexec sleep 1\n")
    compiler.chmod(0o755)
    cache = tmp_path / "cache"
    command = [str(COMMAND), "verify", str(EXPORT), "--sides", "native", "--limit", "2"]
    environment = {**os.environ, "CC": str(compiler), "APOT_EXPORT_CACHE": str(cache)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "parent").exists():
        assert process.poll() is None, process.communicate()
    process.terminate()
    output, said = process.communicate()
    assert (process.returncode, output) == (143, "")
    assert said.startswith("Error: Interrupted.")
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert list(cache.rglob(".*")) == []


def test_signals_that_are_ignored_stay_so() -> None:
    arguments = ("inspect", "alphas", str(EXPORT))
    done = stopped(signal.SIGINT, PLACES["before the verb"], *arguments, before="trap '' INT")
    assert (done.returncode, done.stderr) == (0, "")
    assert "layer3.0.downsample.0" in done.stdout
