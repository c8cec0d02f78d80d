"""Where values lie in the arena, and how their bytes become arrays again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.network import Concat, Convolution, Pair, Shape
from apot_export.network.memory_plan import Use, plan
from apot_export.runtimes.native._fuse import Fused
from apot_export.runtimes.native._steps import Frame, View
from apot_export.runtimes.native._weights import padded
from apot_export.runtimes.native._winograd import POSITIONS

_LINE = 64
_FLOAT_BYTES = 4


@dataclass(kw_only=True)
class Place:
    """A value in the arena: pixels of channels, or planes of rows, with zeros around them."""

    channels: int
    height: int
    width: int
    levels: bool = False
    """Bytes, not float32."""
    planes: bool = False
    border: Pair = (0, 0)
    """Rows above and below, pixels left and right."""
    offset: int = 0
    """First byte of the border, from the arena's start."""

    @property
    def pixel(self) -> int:
        """Bytes from one pixel to the next."""
        return (1 if self.levels else _FLOAT_BYTES) * (1 if self.planes else padded(self.channels))

    @property
    def row(self) -> int:
        """Bytes from one row to the next."""
        return self.pixel * (self.width + 2 * self.border[1])

    @property
    def plane(self) -> int:
        """Bytes from one channel's plane to the next."""
        return self.row * (self.height + 2 * self.border[0])

    @property
    def size(self) -> int:
        """Bytes of the whole, a multiple of a cache line."""
        return -(-self.plane * (self.channels if self.planes else 1) // _LINE) * _LINE

    def view(self, margin: Pair = (0, 0), channel: int = 0) -> View:
        """Return the view whose first pixel lies a margin before the value's first."""
        rows, columns = (wide - skip for wide, skip in zip(self.border, margin, strict=True))
        at = self.offset + rows * self.row + columns * self.pixel + channel * _FLOAT_BYTES
        return View(at, self.row, self.pixel)

    def frame(self) -> Frame:
        """Return the border."""
        return Frame(self.height, self.width, *self.border, self.pixel)

    def read(self, arena: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the value as [channels, height, width], uint8 or float32."""
        rows = arena[self.offset : self.offset + self.plane].view(
            np.uint8 if self.levels else np.float32
        )
        pixels = rows.reshape(-1, self.width + 2 * self.border[1], padded(self.channels))
        high, wide = self.border
        inner = pixels[high : high + self.height, wide : wide + self.width, : self.channels]
        return inner.transpose(2, 0, 1).copy()


def extents(shape: Shape) -> tuple[int, int, int]:
    """Return (channels, height, width) of a value; a flat one is one pixel."""
    channels, *image = shape
    height, width = image or (1, 1)
    return channels, height, width


def place(
    steps: Iterable[Fused], shapes: Mapping[str, Shape], given: str, output: str
) -> tuple[dict[str, Place], int]:
    """Give every value that a step writes its place; return them and the bytes of all.

    Args:
        steps: In order.
        shapes: Shape of every value.
        given: Name of the network's input.
        output: Name of the value that must still be there in the end.
    """
    places: dict[str, Place] = {}
    steps = list(steps)
    for name in (given, *(step.last.value for step in steps if step.last.stored)):
        channels, height, width = extents(shapes[name])
        places[name] = Place(channels=channels, height=height, width=width)
    for step in steps:
        for name, _ in step.last.levels:
            channels, height, width = extents(shapes[step.last.value])
            places[name] = Place(channels=channels, height=height, width=width, levels=True)
    readers = [step for step in steps if given in reads(step)]
    places[given].planes = all(
        isinstance(step.node.operation, Convolution) and step.node.operation.groups == 1
        for step in readers
    )
    for step in steps:
        if isinstance(step.node.operation, Convolution):
            place = places[step.source]
            padding = step.node.operation.padding
            if step.spread is not None:  # its last window of 4 x 4 reaches beyond an odd image
                padding = (1 + place.height % 2, 1 + place.width % 2)
            high, across = map(max, zip(place.border, padding, strict=True))
            place.border = (high, across)
    uses = [Use(reads=(), writes=(given,))]
    for step in steps:
        if step.spread is not None:
            levels = places[step.source]
            places[step.spread] = Place(
                channels=levels.channels,
                height=-(-levels.height // 2) * POSITIONS,
                width=-(-levels.width // 2),
                levels=True,
            )
            uses.append(Use(reads=(step.source,), writes=(step.spread,)))
        written = [name for name, _ in step.last.levels]
        written += [step.last.value] * step.last.stored
        uses.append(Use(reads=reads(step), writes=tuple(written)))
    sizes = {name: place.size for name, place in places.items()}
    offsets, total = plan(uses, sizes, [output])
    for name, place in places.items():
        place.offset = offsets[name]
    return places, -(-total // _LINE) * _LINE + _LINE


def reads(step: Fused) -> tuple[str, ...]:
    """Return the values that a step reads."""
    if isinstance(step.node.operation, Concat):
        return step.node.inputs
    addends = [step.finish.addend, step.after.addend if step.after else None]
    return (step.spread or step.source, *(name for name in addends if name is not None))
