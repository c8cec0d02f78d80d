"""The picture of level sets and the table of thresholds of the APoT paper, from real checkpoints.

python examples/paper/figures.py FOLDER [CHECKPOINT ...]

writes levels.svg, one column of a paper wide, and, for checkpoints, thresholds.md. Source of the
originals: Li, Dong and Wang, "Additive Powers-of-Two Quantization", ICLR 2020, figure 1 and the
authors' README.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import apot_export
from apot_export.network.codebook import (
    Codebook,
    apot,
    distinct_levels,
    power_of_two,
    uniform,
)

BITS = (2, 3, 4, 5)
SETS = {"PoT": power_of_two, "APoT": apot, "uniform": uniform}
COLOURS = {"PoT": "#b3541e", "APoT": "#1b6ca8", "uniform": "#4d4d4d"}
WIDTH, NAMES, ROW, GAP = 252, 66, 13, 9
"""Points: a column of a two-column paper, its names, the height of a row, and between bits."""


def levels_of(name: str, bits: int) -> list[float]:
    """Return the levels of weights of so many bits, sign included, as shares of the threshold.

    With two bits there is one magnitude: all sets are {-1, 0, 1}.
    """
    magnitude_bits = bits - 1
    make = SETS[name] if magnitude_bits > 1 else uniform
    book: Codebook = make(magnitude_bits, signed=True)
    return [float(level) / book.denominator for level in distinct_levels(book)]


def picture() -> str:
    """Return the level sets as SVG: a row for each set, a group for each number of bits."""
    rows = [*_rows()]
    height = len(BITS) * (len(SETS) * ROW + GAP) + 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}pt" height="{height}pt" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="Times New Roman, Times, serif" '
        f'font-size="8">\n' + "\n".join(rows) + "\n</svg>\n"
    )


def _rows() -> Iterator[str]:
    left, right, y = NAMES, WIDTH - 6, 0.0
    middle, reach = (left + right) / 2, (right - left) / 2
    for bits in BITS:
        y += GAP
        for name in SETS:
            y += ROW
            levels = levels_of(name, bits)
            yield f'<text x="0" y="{y:g}">{bits} bit {name}</text>'
            yield f'<path d="M{left} {y - 2:g}H{right}" stroke="#bbb" stroke-width=".5"/>'
            marks = "".join(f"M{middle + reach * level:.2f} {y - 7:g}v7" for level in levels)
            yield f'<path d="{marks}" stroke="{COLOURS[name]}" stroke-width=".8" fill="none"/>'
    y += 12
    for share, label in ((-1, "&#8722;&#945;"), (0, "0"), (1, "&#945;")):
        anchor = "end" if share > 0 else "middle"
        x = middle + reach * share
        yield f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{label}</text>'


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
    (folder / "levels.svg").write_text(picture(), encoding="utf-8")
    if checkpoints:
        (folder / "thresholds.md").write_text(table(checkpoints), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
