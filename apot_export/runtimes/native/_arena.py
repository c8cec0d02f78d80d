"""The memory of a program: values in one arena, constants in its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.network import Concat, Convolution, Pair, Shape
from apot_export.network.memory_plan import Use, plan
from apot_export.runtimes.native._fuse import Fused
from apot_export.runtimes.native._structs import LINE, Frame, View
from apot_export.runtimes.native._weights import POSITIONS, padded

_FLOAT_BYTES = 4
_PAGE = 1 << 21
_LEAST = 1 << 22
"""Bytes from which numpy asks for large pages."""
BESIDE_CHANNELS = 32
"""Channels up to which the 16 transforms of levels lie beside each other, not in planes."""


def large_memory(size: int) -> NDArray[np.uint8]:
    """Return memory that begins with a large page and, where the system has them, is made of such.

    A network's values take thousands of small pages, more than a processor keeps addresses of.
    What is never touched takes no memory.
    """
    memory = np.zeros(max(size, _LEAST) + _PAGE, dtype=np.uint8)
    return memory[-memory.ctypes.data % _PAGE :]


class Constants:
    """Arrays of a plan, each at the start of a cache line."""

    def __init__(self, start: int) -> None:
        """Begin behind the first bytes of a plan."""
        self._pieces = [bytes(-start % LINE)]
        self.end = start + -start % LINE
        """The offset behind the last array, from the plan's start."""

    def address(self, array: NDArray[Any]) -> int:
        """Append an array; return its offset in the plan."""
        at, piece = self.end, np.ascontiguousarray(array).tobytes()
        self._pieces += [piece, bytes(-len(piece) % LINE)]
        self.end += len(piece) + -len(piece) % LINE
        return at

    def content(self) -> bytes:
        """Return the bytes of all."""
        return b"".join(self._pieces)


@dataclass(kw_only=True)
class Buffer:
    """A value in the arena: pixels of channels, or planes of rows, with zeros around them."""

    channels: int
    height: int
    width: int
    levels: bool = False
    """Bytes, not float32."""
    planes: bool = False
    zero: int = 0
    """The byte that stands for level 0: levels are counted from the lowest one."""
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
        return -(-self.plane * (self.channels if self.planes else 1) // LINE) * LINE

    def view(self, margin: Pair = (0, 0), channel: int = 0) -> View:
        """Return the view whose first pixel lies a margin before the value's first."""
        rows, columns = (wide - skip for wide, skip in zip(self.border, margin, strict=True))
        at = self.offset + rows * self.row + columns * self.pixel + channel * _FLOAT_BYTES
        return View(at, self.row, self.pixel)

    def frame(self) -> Frame:
        """Return the border."""
        return Frame(self.height, self.width, *self.border, self.pixel, self.zero)

    def read(self, arena: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the value, float32 or levels (uint8, signed int16): [channels, height, width]."""
        rows = arena[self.offset : self.offset + self.plane].view(
            np.uint8 if self.levels else np.float32
        )
        pixels = rows.reshape(-1, self.width + 2 * self.border[1], padded(self.channels))
        high, wide = self.border
        inner = pixels[high : high + self.height, wide : wide + self.width, : self.channels]
        found = inner.transpose(2, 0, 1).copy()
        return found - np.int16(self.zero) if self.zero else found


def extents(shape: Shape) -> tuple[int, int, int]:
    """Return (channels, height, width) of a value; a flat one is one pixel."""
    channels, *image = shape
    height, width = image or (1, 1)
    return channels, height, width


def allocate(
    steps: Sequence[Fused], shapes: Mapping[str, Shape], given: str, output: str
) -> tuple[dict[str, Buffer], int]:
    """Give every value that a step writes a buffer; return them and the bytes of all.

    Args:
        steps: In order.
        shapes: Shape of every value.
        given: Name of the network's input.
        output: Name of the value that must still be there in the end.
    """
    buffers: dict[str, Buffer] = {}

    def add(name: str, value: str, *, levels: bool = False) -> None:
        channels, height, width = extents(shapes[value])
        buffers[name] = Buffer(channels=channels, height=height, width=width, levels=levels)

    add(given, given)
    for step in steps:
        for name in step.last.written():
            add(name, step.last.value, levels=name != step.last.value)
    buffers[given].planes = all(
        isinstance(step.node.operation, Convolution) and step.node.operation.groups == 1
        for step in steps
        if given in reads(step)
    )
    for step in steps:
        if isinstance(step.node.operation, Convolution):
            source = buffers[step.source]
            padding = step.node.operation.padding
            if step.spread is not None:  # its last window of 4 x 4 reaches beyond an odd image
                padding = (1 + source.height % 2, 1 + source.width % 2)
            high, across = map(max, zip(source.border, padding, strict=True))
            source.border = (high, across)
    uses = [Use(reads=(), writes=(given,))]
    for step in steps:
        if step.spread is not None:
            levels = buffers[step.source]
            beside = POSITIONS if levels.channels <= BESIDE_CHANNELS else 1
            buffers[step.spread] = Buffer(
                channels=levels.channels * beside,
                height=-(-levels.height // 2) * (POSITIONS // beside),
                width=-(-levels.width // 2),
                levels=True,
            )
            uses.append(Use(reads=(step.source,), writes=(step.spread,)))
        uses.append(Use(reads=reads(step), writes=step.last.written()))
    sizes = {name: buffer.size for name, buffer in buffers.items()}
    offsets, total = plan(uses, sizes, [output])
    for name, buffer in buffers.items():
        buffer.offset = offsets[name]
    return buffers, -(-total // LINE) * LINE + LINE


def reads(step: Fused) -> tuple[str, ...]:
    """Return the values that a step reads."""
    if isinstance(step.node.operation, Concat):
        return step.node.inputs
    # A convolution whose levels are transformed can also be computed from the levels themselves.
    others = [step.spread, step.finish.addend, step.after.addend if step.after else None]
    return (step.source, *(name for name in others if name is not None))
