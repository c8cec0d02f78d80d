"""The picture of level sets and the table of thresholds of the APoT paper, from real checkpoints.

python examples/paper/figures.py FOLDER [CHECKPOINT ...]

writes levels.svg, one column of a paper wide (pip install 'apot-export[plot]'), and, for
checkpoints, thresholds.md. Source of the originals: Li, Dong and Wang, "Additive Powers-of-Two
Quantization", ICLR 2020, figure 1 and the authors' README.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import apot_export
from apot_export.inspection.plots import LevelRow, level_rows, write_figure
from apot_export.network.codebook import (
    Codebook,
    apot,
    distinct_levels,
    power_of_two,
    uniform,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BITS = (2, 3, 4, 5)
SETS = {"PoT": power_of_two, "APoT": apot, "uniform": uniform}
COLOURS = {"PoT": "#b3541e", "APoT": "#1b6ca8", "uniform": "#4d4d4d"}


def levels_of(name: str, bits: int) -> list[float]:
    """Return the levels of weights of so many bits, sign included, as shares of the threshold.

    With two bits there is one magnitude: all sets are {-1, 0, 1}.
    """
    magnitude_bits = bits - 1
    make = SETS[name] if magnitude_bits > 1 else uniform
    book: Codebook = make(magnitude_bits, signed=True)
    return [float(level) / book.denominator for level in distinct_levels(book)]


def picture() -> Figure:
    """Return the level sets: a row for each number of bits and set."""
    rows = [
        LevelRow(
            name=f"{bits} bit {name}",
            levels=[(level, 1.0) for level in levels_of(name, bits)],
            colour=COLOURS[name],
        )
        for bits in BITS
        for name in SETS
    ]
    return level_rows(
        rows,
        "weight",
        ends=("\N{MINUS SIGN}\N{GREEK SMALL LETTER ALPHA}", "\N{GREEK SMALL LETTER ALPHA}"),
    )


def table(checkpoints: list[Path]) -> str:
    """Return the thresholds of every layer and the recorded accuracies as Markdown."""
    opened = [apot_export.inspect(path) for path in checkpoints]
    lines = [
        "| checkpoint | recorded top-1 | layers | weight alphas | activation alphas |",
        "|---|---|---|---|---|",
    ]
    sections = []
    for path, found in zip(checkpoints, opened, strict=True):
        record, layers = found.overview.record, found.alphas.layers
        name = path.parent.name if path.name.startswith("model_best") else path.name
        accuracy = "not recorded" if record is None else f"{record['value']:.2%}"
        spans = [
            f"{min(alphas):.3f} to {max(alphas):.3f}" if alphas else "none"
            for alphas in (
                [layer.weight_alpha for layer in layers],
                [layer.activation_alpha for layer in layers],
            )
        ]
        lines.append(f"| {name} | {accuracy} | {len(layers)} | {spans[0]} | {spans[1]} |")
        if layers:
            rows = [
                f"| {x.layer} | {x.weight_alpha:.3f} | {x.activation_alpha:.3f} |" for x in layers
            ]
            head = [
                f"\n## {name}\n",
                "| layer | weight alpha | activation alpha |",
                "|---|---|---|",
            ]
            sections += [*head, *rows]
    return "\n".join([*lines, *sections]) + "\n"


def main(folder: Path, checkpoints: list[Path]) -> None:
    """Write the files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_figure(picture(), folder / "levels.svg")
    if checkpoints:
        (folder / "thresholds.md").write_text(table(checkpoints), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
