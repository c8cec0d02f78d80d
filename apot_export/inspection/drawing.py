"""A network as rows from the images to the output, with skips beside them: what pictures draw."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from apot_export.network import CodedLayer, CodedNetwork, Layer, PlaneLayer
from apot_export.network import operations as op
from apot_export.network.graph import Node
from apot_export.network.shown import dimensions

_WITHIN = (op.QuantizeActivation, op.ScaleBias, op.Relu, op.Clip, op.Flatten)
"""What is not drawn: it follows a layer, and has its shape or as many numbers."""
_BY = " \N{MULTIPLICATION SIGN} "


@dataclass(frozen=True, kw_only=True)
class Row:
    """An operation."""

    value: str
    """Name of what it computes."""
    layer: str
    """Empty where it has no weights."""
    says: str
    shape: str
    reads: tuple[int, ...]
    """Places of the rows that it reads."""


class Skip(NamedTuple):
    """A value that passes rows by."""

    start: int
    """Place of the row that makes it."""
    end: int
    """Place of the row that reads it."""
    lane: int
    """Skips that overlap have different ones, from 0."""


class Block(NamedTuple):
    """Rows that follow each other several times, with the same operations and shapes."""

    start: int
    end: int
    """Place of the last row."""
    times: int


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Rows in order of computation, the images first; blocks that repeat are drawn once."""

    rows: tuple[Row, ...]
    skips: tuple[Skip, ...]
    blocks: tuple[Block, ...]

    @property
    def lanes(self) -> int:
        """How many lanes the skips take."""
        return max((skip.lane + 1 for skip in self.skips), default=0)


def drawing(network: CodedNetwork) -> Drawing:
    """Lay a network out."""
    all_rows, rows = _rows(network), list[Row]()
    blocks: list[Block] = []
    place: dict[int, int] = {}
    before: tuple[object, ...] = ()
    for first, last in _segments(all_rows):
        part = all_rows[first : last + 1]
        looks = _looks(part, all_rows[first - 1].shape if first else "", first)
        if looks == before:
            blocks[-1] = blocks[-1]._replace(times=blocks[-1].times + 1)
        else:
            start = len(rows)
            for offset, row in enumerate(part):
                place[first + offset] = start + offset
                rows.append(replace(row, reads=tuple(place[one] for one in row.reads)))
            blocks.append(Block(start, len(rows) - 1, 1))
            before = looks
        place[last] = blocks[-1].end
    repeated = tuple(block for block in blocks if block.times > 1)
    return Drawing(rows=tuple(rows), skips=tuple(_skips(rows)), blocks=repeated)


def _rows(network: CodedNetwork) -> list[Row]:
    shape = _shape(network.shapes[network.input])
    rows = [Row(value=network.input, layer="", says=network.input, shape=shape, reads=())]
    made_by = {network.input: 0}
    for node in network.nodes:
        if isinstance(node.operation, _WITHIN):
            made_by[node.name] = made_by[node.inputs[0]]
            continue
        made_by[node.name] = len(rows)
        name = getattr(node.operation, "layer", None)
        rows.append(
            Row(
                value=node.name,
                layer=name or "",
                says=_says(node, network.layers.get(name) if name else None),
                shape=_shape(network.shapes[node.name]),
                reads=tuple(dict.fromkeys(made_by[one] for one in node.inputs)),
            )
        )
    return rows


def _shape(shape: tuple[int, ...]) -> str:
    return dimensions(shape).replace(" x ", _BY)


def _says(node: Node, layer: Layer | None) -> str:
    operation = node.operation
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(operation).__name__).lower()
    kernel = getattr(operation, "kernel", None)
    if layer is not None:
        words, kernel = words.replace("convolution", "conv"), layer.shape[2:]
    parts = [words + (f" {_shape(tuple(kernel))}" if kernel else "")]
    steps = getattr(operation, "stride", (1, 1))
    if max(steps) > 1:
        parts.append(f"stride {steps[0] if len(set(steps)) == 1 else _shape(steps)}")
    if getattr(operation, "groups", 1) > 1:
        parts.append(f"{operation.groups} groups")  # type: ignore[union-attr]
    if isinstance(layer, CodedLayer):
        parts.append(f"{layer.codebook.bits} bits")
    elif isinstance(layer, PlaneLayer):
        parts.append(f"{layer.planes.average_bits():.2g} sign vectors")
    elif layer is not None:
        parts.append("float")
    return ", ".join(parts)


def _segments(rows: Sequence[Row]) -> Iterator[tuple[int, int]]:
    """Yield first and last row of the parts between which a single value passes."""
    last_reader = {place: place for place in range(len(rows))}
    for place, row in enumerate(rows):
        last_reader |= dict.fromkeys(row.reads, place)
    start = needed = 0
    for place in range(len(rows)):
        if needed <= place:  # no earlier value is read further below
            yield start, place
            start = place + 1
        needed = max(needed, last_reader[place])


def _looks(part: Sequence[Row], given: str, first: int) -> tuple[object, ...]:
    """Return what two parts must share to be drawn as one."""
    rows = [(row.says, row.shape, tuple(one - first for one in row.reads)) for row in part]
    return (given, *rows)


def _skips(rows: Sequence[Row]) -> Iterator[Skip]:
    """Yield the values that are read further below than in the next row, the shortest first."""
    spans = [(one, place) for place, row in enumerate(rows) for one in row.reads if one < place - 1]
    lanes: list[list[tuple[int, int]]] = []
    for start, end in sorted(spans, key=lambda span: (span[1] - span[0], span)):
        free = (
            lane
            for lane, taken in enumerate(lanes)
            if all(end <= other[0] or other[1] <= start for other in taken)
        )
        lane = next(free, len(lanes))
        if lane == len(lanes):
            lanes.append([])
        lanes[lane].append((start, end))
        yield Skip(start, end, lane)
