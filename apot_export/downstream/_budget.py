"""The limits on what a file may ask of its reader (5.1): it is checked before memory is taken."""

from __future__ import annotations

from ._members import require

FIXED_MEMORY = 2**28
"""Bytes that a file of any size may ask for."""
MEMORY_OF_A_BYTE = 2**8
"""Bytes that it may ask for beside them, for each of its own."""
MOST_MEMORY = 2**34
"""Bytes that no file may ask for, unless the user states another number."""
KINDS = {
    "weights": (16, True),
    "numbers of an image's values at the same time": (8, True),
    "entries of codebooks and of activation quantizers' tables": (8, False),
    "bytes of JSON": (32, False),
    "JSON values": (1024, False),
}
"""What files ask for: the bytes of memory for each, and whether larger files may have more."""
WEIGHTS, NUMBERS, TABLE_ENTRIES, JSON_BYTES, JSON_VALUES = KINDS


class Budget:
    """What one file may ask for, and what it has asked for so far."""

    def __init__(self, file_bytes: int, max_memory: int | None) -> None:
        growing = min(FIXED_MEMORY + MEMORY_OF_A_BYTE * file_bytes, MOST_MEMORY)
        usual = {False: FIXED_MEMORY, True: growing}
        self._memory = usual if max_memory is None else dict.fromkeys(usual, max_memory)
        self._asked = dict.fromkeys(KINDS, 0)

    def take(self, kind: str, count: int, where: str) -> None:
        """Add to what the file has asked for; raise a ValueError where that is too much."""
        self._asked[kind] += count
        self.check(kind, self._asked[kind], where)

    def check(self, kind: str, asked: int, where: str) -> None:
        """Raise a ValueError where the file asks for more than it may."""
        size, grows = KINDS[kind]
        most = self._memory[grows] // size
        advice = f"if you trust the file, load it with max_memory={asked * size}"
        require(asked <= most, f"{where}: {asked} {kind}, more than {most}; {advice}")
