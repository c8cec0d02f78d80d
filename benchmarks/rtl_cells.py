"""Cells of a shift-add processing element, and of one with a multiplier, as Yosys maps them.

python benchmarks/rtl_cells.py ["APoT 4 bits" ...]
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apot_export
from apot_export.devices.rtl.decoder import decoder_parameters
from apot_export.devices.vectors import bits_of
from apot_export.integer.network import Interval
from apot_export.network.codebook import Codebook, apot, power_of_two, uniform

SOURCES = Path(apot_export.__file__).parent / "devices" / "rtl" / "sv"
TAPS = 576
"""Products of a sum: what its width comes from."""
PAIRS = {
    "uniform 2 bits": (uniform(1, signed=True), apot(2, signed=False)),
    "APoT 3 bits": (apot(2, signed=True), apot(3, signed=False)),
    "APoT 4 bits": (apot(3, signed=True), apot(4, signed=False)),
    "APoT 5 bits": (apot(4, signed=True), apot(5, signed=False)),
    "PoT 3 bits": (power_of_two(2, signed=True), power_of_two(3, signed=False)),
    "PoT 4 bits": (power_of_two(3, signed=True), power_of_two(4, signed=False)),
    "uniform 4 bits": (uniform(3, signed=True), uniform(4, signed=False)),
    "uniform 5 bits": (uniform(4, signed=True), uniform(5, signed=False)),
    "APoT 4 bits, int8 inputs": (apot(3, signed=True), uniform(8, signed=False)),
    "uniform 8 bits": (uniform(7, signed=True), uniform(8, signed=False)),
}
"""Codebooks of weights and of their inputs, as networks of so many bits have them."""
MULTIPLIER = """
module multiplier_pe #(parameter int X_BITS = 4, W_BITS = 5, SUM_BITS = 16) (
    input logic clk, step, first,
    input logic [X_BITS-1:0] x,
    input logic signed [W_BITS-1:0] weight,
    output logic signed [SUM_BITS-1:0] sum
);
    logic signed [X_BITS:0] signed_x;
    logic signed [SUM_BITS-1:0] kept;
    assign signed_x = {1'b0, x};
    assign kept = first ? '0 : sum;
    always_ff @(posedge clk) if (step) sum <= kept + signed_x * weight;
endmodule
"""
FLOWS = ("synth_ice40", "synth_xilinx -nodsp", "synth_xilinx")


def main() -> None:
    """Print the table of docs/deploy/fpga.md."""
    print(
        "| weights and inputs | code | level | input | sum | iCE40 LUT4: shift | multiplier "
        "| Xilinx LUT: shift | multiplier | DSP48 of the multiplier |"
    )
    print("|---|" + "---|" * 9)
    for name in sys.argv[1:] or PAIRS:
        print("| " + " | ".join(map(str, [name, *row(*PAIRS[name])])) + " |", flush=True)


def row(weights: Codebook, inputs: Codebook) -> Iterator[int]:
    """Yield widths in bits, then cells of both elements."""
    highest, most = int(weights.levels.max()), int(inputs.levels.max())
    x_bits, level_bits = bits_of(0, most), bits_of(-highest, highest)
    bound = TAPS * highest * most
    sum_bits = bits_of(-bound, bound)
    yield from (weights.bits, level_bits, x_bits, sum_bits)
    shift = decoder_parameters(weights, Interval(low=0, high=most), sum_bits)
    shift["SUM_BITS"] = sum_bits
    multiplier: dict[str, int | str] = {
        "X_BITS": x_bits,
        "W_BITS": level_bits,
        "SUM_BITS": sum_bits,
    }
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "multiplier_pe.sv"
        source.write_text(MULTIPLIER)
        elements = [
            ([SOURCES / "apot_pe.sv", SOURCES / "apot_decoder.sv"], "apot_pe", shift),
            ([source], "multiplier_pe", multiplier),
        ]
        for flow in FLOWS[:2]:
            for element in elements:
                yield luts(cells(flow, *element))
        yield cells(FLOWS[2], *elements[1]).get("DSP48E1", 0)


def cells(
    flow: str, sources: list[Path], top: str, parameters: dict[str, int | str]
) -> dict[str, int]:
    """Synthesise a module; return how many cells of each type it has."""
    chosen = " ".join(f"-set {name} {value}" for name, value in parameters.items())
    read = f"read_verilog -defer -sv {' '.join(map(str, sources))}"
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "stat.json"
        script = (
            f"{read}; chparam {chosen} {top}; hierarchy -top {top}; proc; flatten; "
            f"rename -top {top}; {flow} -top {top}; tee -q -o {found} stat -json"
        )
        yosys = shutil.which("yosys") or "yosys"
        subprocess.run([yosys, "-q", "-p", script], check=True, capture_output=True)
        counted: dict[str, int] = json.loads(found.read_text())["design"]["num_cells_by_type"]
    return counted


def luts(counted: dict[str, int]) -> int:
    """Return the look-up tables among cells."""
    return sum(number for kind, number in counted.items() if "LUT" in kind)


if __name__ == "__main__":
    main()
