"""The structures of `c/apot_steps.h`: a plan as Python writes it and the kernels read it."""

from __future__ import annotations

import ctypes
from enum import IntEnum

LANES = 16
"""Channels are padded to a multiple of this."""
WIDEST_BLOCK = 2
"""Groups of `LANES` channels whose weights lie together."""
LONGEST_RUN = 7
"""Pixels of one row that are computed together."""
PROJECTIONS = 2
"""Quantizers that a step can feed beside its floats."""

MAGIC, VERSION = b"apotplan", 2
LINE = 64
"""Bytes of a cache line, at multiples of which constants begin."""
ANY_MEMORY = (1 << 64) - 1

_number, _float = ctypes.c_int64, ctypes.c_float


def _numbers(names: str) -> list[tuple[str, type[ctypes.c_int64]]]:
    return [(name, _number) for name in names.split()]


class StepKind(IntEnum):
    """Kinds of steps, numbered as in C."""

    LOAD = 0
    CONVOLVE = 1
    DEPTHWISE = 2
    APPLY = 3
    MAXIMUM = 4
    MEAN = 5
    REPEAT = 6
    PLACE = 7
    UNROLL = 8
    SPREAD = 9


class TableKind(IntEnum):
    """Ways to turn half steps into levels, numbered as in C."""

    UNIFORM = 0
    SHUFFLED = 1
    INDEXED = 2


class View(ctypes.Structure):
    """Where a value lies in the arena, in bytes."""

    _fields_ = (*_numbers("at row pixel"),)


class Frame(ctypes.Structure):
    """A value's extent and the zeros around it."""

    _fields_ = (*_numbers("height width rows columns bytes zero"),)


class Projection(ctypes.Structure):
    """Floats to levels."""

    _fields_ = (
        *(("to", View), ("border", Frame)),
        *_numbers("table kind chunks"),
        *(("scale", _float), ("first", _float), ("last", _float), ("below", _number)),
    )


class Finishing(ctypes.Structure):
    """What happens to a sum."""

    _fields_ = (
        *_numbers("scale bias has_addend bounds stored projections"),
        *(("addend", View), ("to", View), ("border", Frame)),
        ("levels", Projection * PROJECTIONS),
        *(("low", _float), ("high", _float)),
    )


class Step(ctypes.Structure):
    """One step of a program."""

    _fields_ = (
        *_numbers("kind integers height width channels input_height input_width"),
        ("from_", View),
        *_numbers("stride_y stride_x kernel_y kernel_x pad_y pad_x"),
        *_numbers("offsets taps weights high_weights"),
        *_numbers("group_blocks group_bytes blocks run narrow_run planes rows columns"),
        *_numbers("winograd offset corrections"),
        ("finish", Finishing),
        *_numbers("pooled pool_height pool_width pool_kernel_y pool_kernel_x"),
        *_numbers("pool_stride_y pool_stride_x pool_pad_y pool_pad_x ring_bytes"),
        ("after", Finishing),
    )


class Options(ctypes.Structure):
    """How a plan is opened: `apot_options` of `c/apot.h`."""

    _fields_ = (
        *(("size", ctypes.c_size_t), ("kernels", ctypes.c_char_p)),
        ("max_memory", ctypes.c_uint64),
    )


class Header(ctypes.Structure):
    """The start of a plan."""

    _fields_ = (
        ("magic", ctypes.c_char * len(MAGIC)),
        *_numbers("version step_bytes checksum size steps_at steps arena_bytes scratch_bytes"),
        *_numbers("channels height width output_at outputs"),
    )
