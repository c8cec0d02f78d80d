"""What a file may ask of its reader: the one statement of the limits, for every kind of file.

Files are untrusted, and a few bytes can declare gigabytes. A reader compares what a file declares
with these limits before it allocates anything: so its memory and time stay in proportion to the
file's size. `downstream` and the JavaScript reader, which stand alone, state the same numbers again
(FORMAT.md, section 5.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

from apot_export.errors import ApotExportError

FIXED_MEMORY = 256 << 20
"""Bytes that a file of any size may ask for."""
MEMORY_OF_A_BYTE = 256
"""Bytes that it may ask for beside them, for each of its own."""
MOST_MEMORY = 16 << 30
"""Bytes that no file may ask for, unless its user states another number."""
DEEPEST_JSON = 32
"""Arrays and objects inside each other."""


class Kind(NamedTuple):
    """Something that a file asks for."""

    name: str
    memory: int
    """Bytes of a reader's memory that one of it stands for, all copies included."""
    grows: bool
    """Whether a larger file may ask for more."""


BYTES = Kind("bytes of decoded data", 1, grows=True)
WEIGHTS = Kind("weights", 16, grows=True)
NUMBERS = Kind("numbers of an image's values at the same time", 8, grows=True)
TABLE_ENTRIES = Kind("entries of codebooks and of activation quantizers' tables", 8, grows=False)
PICKLE_STEPS = Kind("steps of a pickle", 64, grows=False)
JSON_BYTES = Kind("bytes of JSON", 32, grows=False)
JSON_VALUES = Kind("JSON values", 1024, grows=False)

_stated: ContextVar[int | None] = ContextVar("max_memory", default=None)


@contextmanager
def max_memory(size: int | None) -> Iterator[None]:
    """Let the files that are opened inside ask for so many bytes, whatever their size.

    None changes nothing. The limit counts for this thread.

    Raises:
        ApotExportError: The size is not positive.
    """
    if size is not None and size < 1:
        raise ApotExportError("A limit on memory must be positive.", got=f"{size} bytes")
    token = _stated.set(_stated.get() if size is None else size)
    try:
        yield
    finally:
        _stated.reset(token)


def stated_memory() -> int | None:
    """Return what `max_memory` was given; None outside of it."""
    return _stated.get()


@dataclass(frozen=True)
class Budget:
    """What one file may ask for."""

    file_bytes: int
    """Size of the file."""

    def most(self, kind: Kind) -> int:
        """Return how many of a kind the file may ask for."""
        memory = FIXED_MEMORY
        if kind.grows:
            memory = min(memory + MEMORY_OF_A_BYTE * self.file_bytes, MOST_MEMORY)
        stated = _stated.get()
        return (memory if stated is None else stated) // kind.memory

    def require(
        self, kind: Kind, asked: int, where: str, error: type[ApotExportError] = ApotExportError
    ) -> None:
        """Raise `error` where the file asks for more than it may.

        Args:
            kind: What it asks for.
            asked: How many.
            where: The file and the member that asks.
            error: The reader's kind of error.
        """
        if asked > self.most(kind):
            raise error(
                "A file asks for more memory than a file of its size should need.",
                where=where,
                expected=f"at most {self.most(kind)} {kind.name}",
                got=f"{asked} in a file of {self.file_bytes} bytes",
                fix="do not use a file that you do not trust; if you do trust it, allow "
                f"--max-memory {asked * kind.memory} (in Python: apot_export.max_memory)",
            )
