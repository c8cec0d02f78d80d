"""Plans of the native kernels, changed by hand: numbers that would leave their memory."""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from apot_export.runtimes.native._library import Library
from apot_export.runtimes.native._structs import Header, Options, Step

OK, UNREADABLE, NOT_A_PLAN, VERSION, DAMAGED, MALFORMED, TOO_LARGE = range(7)
NO_KERNELS, BAD_ARGUMENT = 8, 10
BEHIND = Header.checksum.offset + Header.checksum.size


def sealed(plan: bytes) -> bytes:
    """Return a changed plan with the checksum that belongs to it."""
    header = Header.from_buffer_copy(plan)
    header.checksum = zlib.crc32(plan[BEHIND:])
    return bytes(header)[:BEHIND] + plan[BEHIND:]


def with_number(plan: bytes, at: int, number: int) -> bytes:
    """Return a plan with another 64-bit number at an offset, sealed."""
    changed = bytearray(plan)
    changed[at : at + 8] = (number % (1 << 64)).to_bytes(8, "little")
    return sealed(bytes(changed))


def changed_plans(plan: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Yield plans with one or two numbers of the header, the steps or the offsets changed."""
    generator = np.random.default_rng(seed)
    header = Header.from_buffer_copy(plan)
    words = np.frombuffer(plan, dtype=np.int64)
    of_header = np.arange(BEHIND // 8, ctypes.sizeof(Header) // 8)
    of_steps = np.arange(header.steps_at // 8, len(words))
    of_constants = np.arange(len(of_header), header.steps_at // 8)
    for _ in range(count):
        changed = words.copy()
        for _ in range(generator.integers(1, 3)):
            kind = generator.choice(3, p=(0.1, 0.8, 0.1))
            at = generator.choice((of_header, of_steps, of_constants)[kind])
            old = int(changed[at])
            other = int(words[generator.choice(of_steps)])
            near = [old + 1, old - 1, 2 * old, old + 64, old - 64, old ^ (1 << 31), other]
            far = [-1, 0, 1, 2, 1 << 20, 1 << 31, 1 << 40, 1 << 62, -(1 << 63)]
            number = int(generator.choice(np.array(near + far, dtype=object)))
            changed[at] = np.array([number % (1 << 64)], dtype=np.uint64).view(np.int64)[0]
        yield sealed(changed.tobytes())


def opened(library: Library, plan: bytes, max_memory: int = 0) -> tuple[int, ctypes.c_void_p]:
    """Return the status of opening a plan on the fastest kernels, and the handle."""
    handle = ctypes.c_void_p()
    options = Options(ctypes.sizeof(Options), None, max_memory)
    status: int = library.functions.apot_open_memory(
        ctypes.byref(handle), plan, len(plan), ctypes.byref(options)
    )
    assert (status == OK) == bool(handle.value)
    return status, handle


def run(
    library: Library, handle: ctypes.c_void_p, images: int, threads: int
) -> NDArray[np.float32]:
    """Run images of noise in a workspace of the library's, and return the outputs."""
    functions = library.functions
    extents = []
    for name in ("channels", "height", "width", "outputs"):
        function = getattr(functions, f"apot_{name}")
        function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_void_p]
        extents.append(function(handle))
    *shape, outputs = extents
    given = np.random.default_rng(0).normal(size=(images, *shape)).astype(np.float32)
    found = np.empty((images, outputs), dtype=np.float32)
    status = functions.apot_run(handle, given.ctypes.data, images, found.ctypes.data, threads, None)
    assert status == OK
    return found


STEP_BYTES = ctypes.sizeof(Step)
