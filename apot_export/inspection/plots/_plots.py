"""The drawings of an inspection: levels, columns of every layer, memory, the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from apot_export.errors import ExportError, visible
from apot_export.inspection import charts
from apot_export.inspection.cost import value_bits
from apot_export.inspection.distributions import BINS, Distribution, distributions
from apot_export.inspection.drawing import Drawing, drawing
from apot_export.inspection.plots._figures import (
    ACCENT,
    GREY,
    HIGHEST,
    INK,
    LevelRow,
    level_rows,
    new_figure,
    style,
    write_figure,
)
from apot_export.network.memory_plan import Storage, activations, bytes_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from apot_export.inspection.opened import Inspection
    from apot_export.presentation.columns import ColumnChart

_KILO = 1000
_CHART_HEIGHT = 1.6
"""Inches."""


def write_plots(found: Inspection, folder: Path, kind: Literal["png", "svg"]) -> tuple[Path, ...]:
    """Write the drawings of what lies at a path into a folder, which is made where it is not there.

    Of an export, the weights before quantization are drawn where its checkpoint is found. The same
    inspection gives the same bytes with the same release of matplotlib.

    Returns:
        The files: network, levels, errors, weight_thresholds, activation_thresholds, energy, bytes
        and memory, as far as the network has them.

    Raises:
        MissingPackageError: matplotlib is not installed: it comes with the extra `plot`.
        ExportError: The folder cannot be made.
        ApotExportError: What lies there is damaged, or has no network.
    """
    figures = dict(_figures(found))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(
            "The drawings' folder cannot be made.",
            where=str(folder),
            expected="a folder, or a place where one can be made",
            got=error.strerror or str(error),
            fix=f"name another with --{kind}",
        ) from error
    paths = {folder / f"{name}.{kind}": figure for name, figure in figures.items()}
    for path, figure in paths.items():
        write_figure(figure, path)
    return tuple(paths)


def _figures(found: Inspection) -> Iterator[tuple[str, Figure]]:
    with style():
        network, (errors, _) = found.network, found.weights_if_known()
        yield "network", _network(drawing(network))
        pictures = distributions(network, None if errors is None else found.source)
        coded = [one for one in pictures if one.levels]
        if coded:
            yield "levels", _levels(coded)
        if errors is not None and (chart := charts.error_chart(errors)) is not None:
            yield "errors", _columns(chart)
        names = ("weight_thresholds", "activation_thresholds")
        for name, chart in zip(names, charts.threshold_charts(found.stored_alphas), strict=False):
            yield name, _columns(chart)
        yield "energy", _columns(charts.energy_chart(found.cost))
        yield "bytes", _columns(charts.bytes_chart(found.bits))
        yield "memory", _memory(activations(network, value_bits(network)))


def _levels(pictures: list[Distribution]) -> Figure:
    rows = []
    for one in pictures:
        outermost = max(abs(value) for value, _ in one.levels) or 1.0
        most = max(count for _, count in one.levels) or 1
        stems = [(value / outermost, count / most) for value, count in one.levels if count]
        rows.append(LevelRow(one.layer, stems, _outline(one, one.reach / outermost)))
    return level_rows(rows, "weight", ends=("lowest level", "highest level"))


def _outline(found: Distribution, reach: float) -> list[tuple[float, float]]:
    if found.weights is None:
        return []
    most = max(found.weights) or 1
    corners = [(-reach, 0.0)]
    for place, count in enumerate(found.weights):
        sides = [reach * (2 * side / BINS - 1) for side in (place, place + 1)]
        corners += [(side, count / most) for side in sides]
    return [*corners, (reach, 0.0)]


def _columns(chart: ColumnChart) -> Figure:
    figure, axes = new_figure(_CHART_HEIGHT)
    places = range(1, len(chart.names) + 1)
    heights = [value or 0.0 for value in chart.values]
    axes.bar(places, heights, width=0.8, color=ACCENT, label="as stored")
    if chart.beside is not None:
        axes.hlines(
            chart.beside,
            [place - 0.4 for place in places],
            [place + 0.4 for place in places],
            colors=INK,
            linewidths=1,
            label=chart.beside_is,
        )
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderpad=0)
    axes.set(xlabel="layer", ylabel=chart.axis, xlim=(0.3, len(chart.names) + 0.7))
    axes.set_xticks([number for _, number in chart.numbers])
    axes.set_yticks(chart.ticks, [name for _, name in chart.grid])
    axes.set_ylim(0, chart.ticks[-1])
    return figure


def _memory(storages: list[Storage]) -> Figure:
    from matplotlib.collections import PolyCollection

    figure, axes = new_figure(_CHART_HEIGHT)
    corners = []
    for one in storages:
        low, high = one.offset / _KILO, (one.offset + one.size) / _KILO
        left, right = one.birth, one.death + 1
        corners.append([(left, low), (right, low), (right, high), (left, high)])
    axes.add_collection(
        PolyCollection(corners, facecolors=ACCENT, edgecolors="white", linewidths=0.4)
    )
    steps = max(one.death for one in storages) + 1
    axes.set(xlim=(0, steps), ylim=(0, bytes_of(storages) / _KILO))
    axes.set(xlabel="node, in order of computation", ylabel="kB of activations")
    return figure


# --- the network ----------------------------------------------------------------------------------

_ROW_INCHES = 0.23
_BOX = (0.0, 6.2)
"""From left to right, the whole being 10 units wide beside the skips."""
_LANE_UNITS = 0.35
_BOX_HEIGHT = 0.74


def _network(found: Drawing) -> Figure:
    from matplotlib.patches import Rectangle

    count = len(found.rows)
    height = min(count * _ROW_INCHES + 0.1, HIGHEST)
    size = min(7.0, 7.0 * (height / count) / _ROW_INCHES)
    figure, axes = new_figure(height)
    left, right = _BOX
    skips = _LANE_UNITS * (found.lanes + 1)
    for start, end, times in found.blocks:
        axes.add_patch(
            Rectangle(
                (left - skips + 0.1, start - 0.5),
                10 + skips - 0.2,
                end - start + 1,
                fill=False,
                edgecolor=INK,
                linewidth=0.5,
                linestyle=(0, (4, 3)),
            )
        )
        says = f"\N{MULTIPLICATION SIGN} {times}"
        axes.text(9.8, start, says, ha="right", va="center", fontsize=size + 1, weight="bold")
    for place, row in enumerate(found.rows):
        face = "#eef2f6" if row.layer else "white"
        box = Rectangle((left, place - _BOX_HEIGHT / 2), right - left, _BOX_HEIGHT)
        box.set(facecolor=face, edgecolor=GREY, linewidth=0.5)
        axes.add_patch(box)
        axes.text(left + 0.15, place, visible(row.says), ha="left", va="center", fontsize=size)
        axes.text(right + 0.15, place, row.shape, ha="left", va="center", fontsize=size)
        if place - 1 in row.reads:
            axes.plot(
                [left + 0.6] * 2,
                [place - 0.63, place - 0.37],
                color=INK,
                linewidth=0.6,
                solid_capstyle="butt",
            )
    for start, end, lane in found.skips:
        x = left - 0.2 - _LANE_UNITS * (lane + 0.5)
        across, down = [left, x, x, left], [start + 0.2, start + 0.2, end - 0.2, end - 0.2]
        axes.plot(across, down, color=ACCENT, linewidth=0.8)
        axes.plot(left - 0.06, end - 0.2, marker=">", markersize=2.5, color=ACCENT)
    axes.set(xlim=(left - skips, 10), ylim=(count - 0.4, -0.6))
    axes.set_axis_off()
    return figure
