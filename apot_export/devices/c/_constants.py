"""C constants: arrays of numbers, each written once however often it is used."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.integer]
_LINE = 100
_TYPES = {
    "uint8_t": 1,
    "int16_t": 2,
    "uint16_t": 2,
    "int32_t": 4,
    "uint32_t": 4,
    "int64_t": 8,
}


@dataclass(kw_only=True)
class Constants:
    """The constants of a source file."""

    names: dict[tuple[str, str, bytes], str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    bytes: dict[str, int] = field(default_factory=dict)
    """By name, of those that every build has."""

    def add(self, c_type: str, numbers: Numbers, name: str, guard: str = "") -> str:
        """Return the name of an array; it is declared where no equal one was.

        Args:
            c_type: Type of its numbers.
            numbers: Any shape.
            name: What it is called if it is new.
            guard: Condition of the preprocessor for its declaration.
        """
        flat = numbers.reshape(-1).astype(np.int64)
        known = self.names.setdefault((c_type, guard, flat.tobytes()), name)
        if known != name:
            return known
        if guard:
            self.lines.append(f"#if {guard}")
        self.lines.append(f"static const {c_type} {name}[{flat.size}] = {{")
        self.lines += wrapped([literal(int(number)) for number in flat])
        self.lines.append("};")
        if guard:
            self.lines.append("#endif")
        self.bytes[name] = flat.size * _TYPES.get(c_type, 2)
        return name


def literal(number: int) -> str:
    """Return a number as C writes it, whatever its size."""
    if -(1 << 31) < number < 1 << 31:
        return str(number)
    if number == -(1 << 31):
        return "(-2147483647 - 1)"
    return f"INT64_C({number})"


def wrapped(parts: list[str]) -> list[str]:
    """Return numbers, separated by commas, in lines."""
    lines, line = [], "   "
    for part in parts:
        if len(line) + len(part) + 2 > _LINE:
            lines.append(line)
            line = "   "
        line += f" {part},"
    return [*lines, line]
