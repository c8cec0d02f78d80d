"""Instructions of every step of the native kernels on ARM, counted in QEMU, beside int8.

    python -m benchmarks.devices.arm EXPORT [--json FILE]

Cross-compiles libapot and a program that runs one image step by step, and counts what QEMU executes
of each. The same convolutions in uniform int8 are counted beside them, on a kernel with the loop of
XNNPACK's for the dot product (4 pixels x 16 outputs, through pointers, rounded to int8). Counts are
no times: processors run up to four of these instructions at once, and wait for memory. Needs
`aarch64-linux-gnu-gcc`, `cc` and `qemu-aarch64` (Debian: gcc-aarch64-linux-gnu, qemu-user).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from apot_export.artifacts.packed import load_packed
from apot_export.devices.native import emit_native
from apot_export.network import CodedNetwork, Convolution, Linear
from apot_export.runtimes.native import compile_network

HERE = Path(__file__).parent
CROSS, HOST, EMULATOR = "aarch64-linux-gnu-gcc", "cc", "qemu-aarch64"
START = 1_000_000
"""Of the mark before a step."""


def int8_layers(network: CodedNetwork) -> dict[str, tuple[int, int, int, int]]:
    """Return taps, channels, outputs and places of every convolution and matrix product."""
    found = {}
    for node in network.nodes:
        if isinstance(node.operation, (Convolution, Linear)):
            outputs, channels, *kernel = network.layers[node.operation.layer].shape
            places = math.prod(network.shapes[node.name][1:])
            found[node.name] = (math.prod(kernel), channels, outputs, places)
    return found


def build(project: Path) -> tuple[Path, Path]:
    """Return the program, of an emitted project, and the plugin that counts."""
    make = ["make", "-s", "-C", str(project), f"CC={CROSS}", "AR=aarch64-linux-gnu-ar"]
    subprocess.run([*make, "build/libapot.a"], check=True)
    program, plugin = project / "arm", project / "plugin.so"
    options = ["-O3", "-march=armv8.2-a+dotprod", "-static", "-pthread", f"-I{project}"]
    library = str(project / "build" / "libapot.a")
    source = str(HERE / "arm.c")
    subprocess.run([CROSS, *options, source, library, "-o", str(program)], check=True)
    options = ["-O2", "-shared", "-fPIC", str(HERE / "arm_plugin.c"), "-o", str(plugin)]
    subprocess.run([HOST, *options], check=True)
    return program, plugin


def counted(export: Path) -> list[tuple[str, int, int | None]]:
    """Return every step, its instructions, and those of its layer in int8 where it has weights.

    Raises:
        RuntimeError: The steps did not run on the kernels of the dot product.
    """
    network = load_packed(export).network
    layers, steps = int8_layers(network), compile_network(network).steps
    with tempfile.TemporaryDirectory() as name:
        project = Path(name) / "project"
        emit_native(export, project)
        program, plugin = build(project)
        log = Path(name) / "log"
        words = ["-cpu", "max", "-plugin", str(plugin), "-d", "plugin", "-D", str(log)]
        plan = str(project / "network.apot")
        done = subprocess.run(
            [EMULATOR, *words, str(program), plan, str(len(steps))],
            input="\n".join(" ".join(map(str, layer)) for layer in layers.values()),
            text=True,
            check=True,
            capture_output=True,
        )
        marks = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    if done.stderr.strip() != "neon":
        raise RuntimeError(f"ran on {done.stderr.strip()}")
    counts = [count for mark, count in marks if mark != START]
    int8 = dict(zip(layers, counts[len(steps) :], strict=True))
    return [(step, count, int8.get(step)) for step, count in zip(steps, counts, strict=False)]


def main() -> None:
    """Count, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("--json", type=Path, help="file for all counts")
    given = parser.parse_args()
    rows = counted(given.export)
    table = Table(title=f"{given.export.name}: thousands of instructions of one image (QEMU)")
    for column in ("step", "native, neon", "int8, 4 x 16", "int8 / native"):
        table.add_column(column, justify="left" if column == "step" else "right")
    layers = [(native, int8) for _, native, int8 in rows if int8 is not None]
    totals = ("layers with weights", sum(n for n, _ in layers), sum(i for _, i in layers))
    for step, native, int8 in (*rows, totals):
        compared = ["", ""] if int8 is None else [f"{int8 / 1e3:,.0f}", f"{int8 / native:.2f}"]
        table.add_row(step, f"{native / 1e3:,.0f}", *compared)
    Console(width=None if Console().is_terminal else 120).print(table)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
