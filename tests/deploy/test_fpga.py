"""The page on FPGAs: its lines run as they stand, and its table is what Yosys counts."""

from __future__ import annotations

import subprocess
import sys

from tests.support import simulators
from tests.support.pages import ROOT, blocks, environment, run_lines

PAGE = "docs/deploy/fpga.md"


def test_the_lines_of_the_page() -> None:
    simulators.require("iverilog", "verilator", "yosys")
    for lines in blocks(PAGE, "sh"):
        run_lines(lines)
    for tool in ("lint", "iverilog", "verilator", "synth"):
        assert (ROOT / f"build/deploy/rtl/build/layer1_0_conv1.{tool}").exists()
    assert (ROOT / "build/deploy/vectors/vectors.npz").exists()


def test_a_row_of_the_table() -> None:
    """Other versions of Yosys may count other cells; fewer for shifts, as the page says."""
    simulators.require("yosys")
    name = "APoT 4 bits"
    done = subprocess.run(
        [sys.executable, "benchmarks/rtl_cells.py", name],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    row = done.stdout.splitlines()[-1]
    documented = next(
        line
        for line in (ROOT / PAGE).read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| {name} |")
    )
    assert row.split(" | ")[:5] == documented.split(" | ")[:5]
    ice40, ice40_multiplier, xilinx, xilinx_multiplier = map(int, row.split(" | ")[5:9])
    assert ice40 < ice40_multiplier
    assert xilinx < xilinx_multiplier
