"""Read bit-widths, level set and grid from the names of a checkpoint's file and folders.

Names are read as a person reads them. A name that can be read two ways is an error that asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from apot_export.errors import BitWidthError, CodebookError
from apot_export.original.quantization import FILE_NAME, FOLDER_NAME, METHODS, Stated

_NUMBER = r"(?<!\d)(?<!\d\.)(\d{1,2})"  # not the end of a longer number: 0.40bit is an average
_END = r"(?!\d)(?!\.\d)"
_BITS = r"(?:bits?)?"
_ONE_WIDTH = (
    rf"{_NUMBER}bits?",  # 4bit
    rf"(?<![a-z])n?bits?(\d{{1,2}}){_END}",  # bit4
    r"(?<![a-z0-9.])(\d{1,2})[-_ ]bits?(?![a-z0-9])",  # 4-bit
    rf"(?<![a-z0-9])n?bits?[-_ =](\d{{1,2}})(?![a-z]){_END}",  # bits_4
    rf"(?<![a-z])int(\d{{1,2}}){_END}",  # int4
)
_WEIGHTS_FIRST = (
    rf"(?<![a-z])w{_BITS}(\d{{1,2}}){_BITS}[-_ ]?a{_BITS}(\d{{1,2}}){_END}",  # w4a8
    rf"{_NUMBER}{_BITS}w[-_ ]?(\d{{1,2}}){_BITS}a(?![a-z])",  # 4w8a
)
_ACTIVATIONS_FIRST = (
    rf"(?<![a-z])a{_BITS}(\d{{1,2}}){_BITS}[-_ ]?w{_BITS}(\d{{1,2}}){_END}",
    rf"{_NUMBER}{_BITS}a[-_ ]?(\d{{1,2}}){_BITS}w(?![a-z])",
)
_LEVEL_SETS = {
    "apot": r"(?i:apot(?!h)|additive)",
    "pot": r"(?<![Aa])PoT(?![a-z])|(?i:(?:(?<![a-z])|(?<=bit)|(?<=bits))pot(?![a-z]))",
    "uniform": r"(?i:(?<!non)(?<!non[-_ ])uniform)",
}
_NONZERO_FOLDER = re.compile(r"n_?grid.*", re.IGNORECASE)

_Widths = tuple[int, int | None]
"""Bits of weights, and of activations where a name states them apart."""


def bits_from_name(path: Path) -> Stated[int] | None:
    """Read the bit-width of weights, such as `4bit`, from a checkpoint's file name or its folder's.

    Where the folder's name states a level set or grid alone, its parent's is read: runs lie in
    `res20_4bit/APOT/` and `res32_2bit/N_grid/`.

    Raises:
        BitWidthError: A name can be read as two bit-widths.

    >>> from pathlib import Path
    >>> bits_from_name(Path("res20_3bit/model_best.pth.tar"))
    Stated(value=3, source='folder name')
    """
    found = _widths(path)
    return None if found is None else Stated(found.value[0], found.source)


def activation_bits_from_name(path: Path) -> Stated[int] | None:
    """Read the bit-width of activations where a name states it apart, such as `w4a8`.

    Raises:
        BitWidthError: A name can be read as two bit-widths.
    """
    found = _widths(path)
    if found is None or found.value[1] is None:
        return None
    return Stated(found.value[1], found.source)


def _widths(path: Path) -> Stated[_Widths] | None:
    folder = path.absolute().parent
    names = [(path.name, FILE_NAME), (folder.name, FOLDER_NAME)]
    if _level_sets_of(folder.name) or _NONZERO_FOLDER.fullmatch(folder.name):
        names.append((folder.parent.name, FOLDER_NAME))
    for name, source in names:
        readings = {*_widths_of(name.lower())}
        pairs = {reading for reading in readings if reading[1] is not None}
        if len(pairs) == 1:  # w4a8_4bit says the same twice
            (pair,) = pairs
            readings = {(bits, other) for bits, other in readings if bits not in pair} | pairs
        if len(readings) > 1:
            raise BitWidthError(
                "A name states more than one bit-width.",
                where=str(path),
                got=", ".join(f"{bits} bit" for bits, _ in sorted(readings, key=str)),
                fix="say which it is with --bits N",
            )
        if readings:
            return Stated(readings.pop(), source)
    return None


def _widths_of(name: str) -> Iterator[_Widths]:
    """Yield every way to read bit-widths in a name in lower case."""
    for pattern in _WEIGHTS_FIRST:
        for weights, activations in re.findall(pattern, name, re.ASCII):
            yield int(weights), int(activations)
    for pattern in _ACTIVATIONS_FIRST:
        for activations, weights in re.findall(pattern, name, re.ASCII):
            yield int(weights), int(activations)
    for pattern in _ONE_WIDTH:
        for bits in re.findall(pattern, name, re.ASCII):
            yield int(bits), None


def method_from_name(path: Path) -> Stated[str] | None:
    """Read the level set from a checkpoint's file name, or its folder's; None where none is there.

    Raises:
        CodebookError: A name states two.

    >>> from pathlib import Path
    >>> method_from_name(Path("resnet10_4bit_uniform/model_best.pth.tar"))
    Stated(value='uniform', source='folder name')
    """
    folder = path.absolute().parent
    names = [(path.name, FILE_NAME), (folder.name, FOLDER_NAME)]
    if folder.parent.name.lower() in METHODS:
        names.append((folder.parent.name, FOLDER_NAME))
    for name, source in names:
        found = _level_sets_of(name)
        if len(found) > 1:
            raise CodebookError(
                "A name states more than one level set.",
                where=str(path),
                got=", ".join(found),
                fix="say which it is with --method NAME",
            )
        if found:
            return Stated(found[0], source)
    return None


def _level_sets_of(name: str) -> list[str]:
    return [method for method, pattern in _LEVEL_SETS.items() if re.search(pattern, name)]


def grid_from_name(path: Path) -> Stated[str] | None:
    """Return "nonzero" where a checkpoint's folder is that of a run with the non-zero grid."""
    if _NONZERO_FOLDER.fullmatch(path.absolute().parent.name):
        return Stated("nonzero", FOLDER_NAME)
    return None
