"""Count what the kernels of AMX ask of tile registers, layer by layer: counts, not times.

    python -m benchmarks.tile_registers EXPORT

Runs the kernels of AMX with emulated registers, on any processor, for one image. A product of two
registers takes 16 cycles, a load 8: bounds of what a core can do, with all operands in its first
cache. A layer is also bound by its weights, which one image reads once from where they lie.
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from apot_export.artifacts.packed import load_packed
from apot_export.network import Convolution, Linear
from apot_export.runtimes.native import compile_network
from apot_export.runtimes.native._library import Library, compile_kernels

COUNTED = ("products", "loads", "stores")
PRODUCT_CYCLES, LOAD_CYCLES = 16, 8
GIGAHERTZ = 2.0


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", type=Path, help="an export directory")
    network = load_packed(parser.parse_args().export).network
    with tempfile.TemporaryDirectory() as folder:
        emulated = {"amx": ["-DAPOT_EMULATED_TILES"]}
        library = Library(compile_kernels(Path(folder), others=emulated))
    fast = compile_network(network, kernels="amx", library=library)
    image = np.random.default_rng(0).normal(size=network.input_shape).astype(np.float32)
    fast.run(image[None])
    columns = ("layer", "output", "products", "cycles", "loads", "cycles", "stores", "weights, kB")
    table = Table(*columns, title=f"{network}: registers of one image")
    operations = {node.name: node.operation for node in network.nodes}
    weighted = (Convolution, Linear)
    layers = {name: o.layer for name, o in operations.items() if isinstance(o, weighted)}
    total = np.zeros(len(COUNTED) + 1, dtype=np.int64)
    found = (ctypes.c_int64 * len(COUNTED))()
    for index, part in enumerate(fast._program.parts):  # noqa: SLF001 - what the steps are
        library.functions.apot_emulated_counts(found)
        fast.run_step(index, image)
        library.functions.apot_emulated_counts(found)
        if not any(found) or part.sums is None:
            continue
        channels, height, width = part.sums
        layer = network.layers[layers[part.name]]
        numbers = np.array([*found, np.prod(layer.shape) * (1 if layer.activation else 2)])
        total += numbers
        table.add_row(part.name, f"{channels} x {height} x {width}", *cells(numbers))
    table.add_row("all", "", *cells(total))
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    bound = total[0] * PRODUCT_CYCLES / GIGAHERTZ / 1e6
    console.print(f"products alone at {GIGAHERTZ:g} GHz: {bound:.2f} ms")


def cells(numbers: NDArray[np.int64]) -> list[str]:
    """Return the cells of a layer's counts, with the cycles of products and loads."""
    products, loads, stores, weights = (int(number) for number in numbers)
    counts = (products, products * PRODUCT_CYCLES, loads, loads * LOAD_CYCLES, stores)
    return [*(f"{count:,}" for count in counts), f"{weights / 1e3:,.0f}"]


if __name__ == "__main__":
    main()
