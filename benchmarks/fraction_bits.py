"""Tabulate and plot what fraction bits cost: agreement, top-1 and bytes of activation memory.

    python benchmarks/fraction_bits.py EXPORT... --data FOLDER --out docs/fraction-bits

EXPORTs are folders that `convert` wrote, of one dataset. Writes OUT.md and OUT.png (matplotlib).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts.directory import ONNX_MODEL, read_manifest
from apot_export.artifacts.onnx_model import build_integer_model, serialise
from apot_export.artifacts.packed import load_packed
from apot_export.datasets import kind_of
from apot_export.errors import BoundError
from apot_export.integer import IntegerNetwork, lower
from apot_export.original import families
from apot_export.runtimes.onnx_runtime import Session, open_session

BITS = (4, 6, 8, 10, 12, 14, 16, 18, 20)
BATCH = 100


def logits_of(session: Session, images: NDArray[np.float32]) -> NDArray[Any]:
    """Run in batches."""
    parts = np.split(images, range(BATCH, len(images), BATCH))
    return np.concatenate([session.run_all(part)["logits"] for part in parts])


def activation_bytes(network: IntegerNetwork) -> int:
    """Return the most bytes of values that are needed at once, each as wide as its range."""
    last_use = {name: i for i, node in enumerate(network.nodes) for name in node.inputs}
    last_use[network.output] = len(network.nodes)
    alive: dict[str, int] = {}
    most = 0
    for position, node in enumerate(network.nodes):
        width = next(w for w in (8, 16, 32, 64) if node.interval.bits <= w)
        alive[node.name] = math.prod(node.shape) * width // 8
        most = max(most, sum(alive.values()))
        alive = {n: size for n, size in alive.items() if last_use.get(n, -1) > position}
    return most


def main() -> None:
    """Run every export with every number of fraction bits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exports", type=Path, nargs="+")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows: dict[str, list[tuple[int, float, float, int]]] = {}
    baselines: dict[str, float] = {}
    count = 0
    for export in arguments.exports:
        coded = load_packed(export).network
        kind = kind_of(None, coded.input_shape, coded.shapes[coded.output][0])
        family = families.by_name(read_manifest(export)["family"])
        images, labels = next(kind.open(arguments.data, family.preprocessing).batches(1 << 20))
        count = len(images)
        expected = logits_of(open_session((export / ONNX_MODEL).read_bytes(), "cpu"), images)
        baselines[export.name] = float((expected.argmax(axis=1) == labels).mean())
        for bits in BITS:
            try:
                network = lower(coded, fraction_bits=bits)
            except BoundError:
                continue
            model = build_integer_model(coded, network, name="n", tool="benchmark 1", metadata={})
            found = logits_of(open_session(serialise(model), "cpu"), images).argmax(axis=1)
            row = (
                bits,
                float((found == expected.argmax(axis=1)).mean()),
                float((found == labels).mean()),
                activation_bytes(network),
            )
            rows.setdefault(export.name, []).append(row)
            print(export.name, *row, flush=True)
    write_table(arguments.out.with_suffix(".md"), rows, baselines, count)
    plot(arguments.out.with_suffix(".png"), rows, baselines)


def write_table(
    path: Path,
    rows: dict[str, list[tuple[int, float, float, int]]],
    baselines: dict[str, float],
    count: int,
) -> None:
    """Write the table as Markdown."""
    lines = [
        "# Fraction bits, agreement and memory",
        "",
        f"Integer networks against the float export, {count} test images of CIFAR-10. Activation",
        "memory is the most that one image's values take at once, each in 8, 16, 32 or 64 bits as",
        "its proven range needs.",
        "With so few images a top-1 that differs by less than a point is noise: one image is "
        f"{100 / count:.2f} points.",
        "Made by `benchmarks/fraction_bits.py`.",
        "",
        f"![Agreement and top-1 over fraction bits]({path.with_suffix('.png').name})",
        "",
        "| network | F | agreement | top-1 | against the float export | activation bytes |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in rows.items():
        for bits, agreement, top1, size in found:
            lines.append(
                f"| {name} | {bits} | {agreement:.2%} | {top1:.2%} "
                f"| {100 * (top1 - baselines[name]):+.2f} points | {size:,} |"
            )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def plot(
    path: Path, rows: dict[str, list[tuple[int, float, float, int]]], baselines: dict[str, float]
) -> None:
    """Draw agreement and top-1 over fraction bits."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for number, (name, found) in enumerate(rows.items()):
        bits = [row[0] for row in found]
        colour = f"C{number}"
        left.plot(bits, [100 * row[1] for row in found], "o-", color=colour, label=name)
        right.plot(bits, [100 * row[2] for row in found], "o-", color=colour, label=name)
        right.axhline(100 * baselines[name], color=colour, linewidth=0.8, linestyle=":")
    left.set(xlabel="fraction bits", ylabel="agreement with the float export, %")
    right.set(xlabel="fraction bits", ylabel="top-1, % (dotted: float export)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
