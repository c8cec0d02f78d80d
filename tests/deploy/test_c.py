"""C projects, written, built and run as docs/deploy/c.md and microcontroller.md say."""

from __future__ import annotations

import shutil

import pytest

from tests.support import simulators
from tests.support.pages import ROOT, blocks, run_lines

NEEDED = (
    *("make", "gcc", "g++", "clang", "riscv64-unknown-elf-gcc", "arm-none-eabi-gcc"),
    *("qemu-system-riscv32", "qemu-system-arm", "mips-linux-gnu-gcc", "qemu-mips"),
)


FOLDERS = {"microcontroller": ROOT / "build" / "mcu", "c": ROOT / "build" / "pc"}


@pytest.mark.parametrize("page", FOLDERS)
def test_every_line_runs_and_passes(page: str) -> None:
    simulators.require(*NEEDED)
    shutil.rmtree(FOLDERS[page], ignore_errors=True)
    script = "".join(blocks(f"docs/deploy/{page}.md", "sh"))
    said = run_lines(script).splitlines()
    assert said.count("PASS") == script.count(" run-")
    logits = [line for line in said if line.startswith("logits")]
    assert len(set(logits)) == 2  # the samples, on every machine the same
