"""Read bit-width, level set and grid from the names of a checkpoint's file and folder."""

from __future__ import annotations

import re
from pathlib import Path

from apot_export.errors import BitWidthError
from apot_export.original.quantization import Stated

_BITS_IN_NAME = re.compile(r"(?<!\d)(\d{1,2})[-_]?bit", re.IGNORECASE)
_NONZERO_FOLDER = re.compile(r"n_?grid.*", re.IGNORECASE)


def bits_from_name(path: Path) -> Stated[int] | None:
    """Read a bit-width such as `4bit` from a checkpoint's file name, else from its folder's.

    Raises:
        BitWidthError: One name states two bit-widths.

    >>> from pathlib import Path
    >>> bits_from_name(Path("res20_3bit/model_best.pth.tar"))
    Stated(value=3, source='folder name')
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
            return Stated(found.pop(), source)
    return None


def method_from_name(path: Path) -> Stated[str] | None:
    """Return "uniform" where a name contains the word, else None: published runs are additive.

    >>> from pathlib import Path
    >>> method_from_name(Path("resnet10_4bit_uniform/model_best.pth.tar"))
    Stated(value='uniform', source='folder name')
    """
    for name, source in ((path.name, "file name"), (path.absolute().parent.name, "folder name")):
        if "uniform" in name.lower():
            return Stated("uniform", source)
    return None


def grid_from_name(path: Path) -> Stated[str] | None:
    """Return "nonzero" where a checkpoint's folder is that of a run with the non-zero grid."""
    if _NONZERO_FOLDER.fullmatch(path.absolute().parent.name):
        return Stated("nonzero", "folder name")
    return None
