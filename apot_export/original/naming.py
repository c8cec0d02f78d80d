"""What the names of checkpoints say: bit-width, level set, grid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apot_export.errors import BitWidthError, CodebookError
from apot_export.original.quantization import FULL_PRECISION_BITS, METHODS

_BITS_IN_NAME = re.compile(r"(?<!\d)(\d{1,2})[-_]?bit", re.IGNORECASE)
_NONZERO_FOLDER = re.compile(r"n_?grid.*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class BitWidth:
    """A bit-width and where it was learned."""

    bits: int
    source: str
    """"option", "file name", "folder name" or "checkpoint" (no clipping thresholds in it)."""


def bits_from_name(path: Path) -> BitWidth | None:
    """Read a bit-width such as `4bit` from a checkpoint's file name, else from its folder's.

    Raises:
        BitWidthError: One name states two bit-widths.

    >>> from pathlib import Path
    >>> bits_from_name(Path("res20_3bit/model_best.pth.tar"))
    BitWidth(bits=3, source='folder name')
    """
    folder = path.absolute().parent
    if _NONZERO_FOLDER.fullmatch(folder.name):
        # Runs with the non-zero grid lie one folder deeper: res32_2bit/N_grid/model_best.pth.tar.
        folder = folder.parent
    for name, source in ((path.name, "file name"), (folder.name, "folder name")):
        found = {int(number) for number in _BITS_IN_NAME.findall(name)}
        if len(found) > 1:
            raise BitWidthError(
                "A name states more than one bit-width.",
                where=str(path),
                got=", ".join(f"{bits} bit" for bits in sorted(found)),
                fix="say which it is with --bits N",
            )
        if found:
            return BitWidth(bits=found.pop(), source=source)
    return None


def require_offered(
    width: BitWidth,
    family: str,
    offered: Sequence[int],
    where: Path,
    option: str = "--bits N",
) -> None:
    """Raise `BitWidthError` unless a bit-width is one that a family's training code offers."""
    if width.bits not in offered:
        has = "no clipping thresholds" if offered == (FULL_PRECISION_BITS,) else "it has thresholds"
        raise BitWidthError(
            f"The {width.source} says {width.bits} bits, which does not fit the checkpoint.",
            where=str(where),
            expected=f"{', '.join(map(str, offered))} bits (family {family}: {has})",
            got=f"{width.bits} bits from the {width.source}",
            fix=f"say the bit-width that the network was trained with: {option}",
        )


def require_method(method: str) -> None:
    """Raise `CodebookError` unless there is a level set of this name."""
    if method not in METHODS:
        raise CodebookError(
            "There is no such level set.",
            expected=" or ".join(METHODS),
            got=repr(method),
            fix="name one of these with --method, or leave it out",
        )


def grid_from_name(path: Path) -> str | None:
    """Return "nonzero" where a checkpoint's folder is that of a run with the non-zero grid."""
    folder = path.absolute().parent.name
    return "nonzero" if _NONZERO_FOLDER.fullmatch(folder) else None


def method_from_name(path: Path) -> tuple[str, str]:
    """Return the level set that a checkpoint's names state, and which of them did.

    Published runs with uniform levels carry the word in their name; all others are additive.

    >>> from pathlib import Path
    >>> method_from_name(Path("resnet10_4bit_uniform/model_best.pth.tar"))
    ('uniform', 'folder name')
    >>> method_from_name(Path("res20_4bit/model_best.pth.tar"))
    ('apot', 'default')
    """
    for name, source in ((path.name, "file name"), (path.absolute().parent.name, "folder name")):
        if "uniform" in name.lower():
            return "uniform", source
    return "apot", "default"
