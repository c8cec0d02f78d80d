"""Find and read image files: the folders that are searched, class folders, and decoding."""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from PIL import Image, UnidentifiedImageError

from apot_export import budgets
from apot_export.budgets import Budget
from apot_export.errors import DatasetError

ROOT_VARIABLE = "APOT_EXPORT_DATA"
"""Environment variable that names the folder in which datasets are looked for."""

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

_DECODING_ERRORS = (
    OSError,
    EOFError,
    IndexError,
    SyntaxError,
    TypeError,
    ValueError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's decoders raise on damaged files."""


def candidate_roots(data: Path | None, names: Sequence[str]) -> list[Path]:
    """List the folders in which a dataset may lie: given, named by the environment, or ./data."""
    if data is not None:
        bases = [data]
    else:
        variable = os.environ.get(ROOT_VARIABLE)
        bases = [Path(variable)] if variable else []
        bases.append(Path("data"))
    return [folder for base in bases for folder in (base, *(base / name for name in names))]


def missing(name: str, searched: Sequence[Path], expected: str) -> DatasetError:
    """Return the error that names the images looked for and the folders searched."""
    return DatasetError(
        f"The {name} images were not found.",
        where=", ".join(map(str, [folder for folder in searched if folder.is_dir()] or searched)),
        expected=expected,
        fix=f"say where they are with --data FOLDER, or set {ROOT_VARIABLE}",
    )


def subfolders(root: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name, without hidden ones."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if not _hidden(path) and path.is_dir())


def images_in(folder: Path) -> list[Path]:
    """Return the files in a folder that have an image's suffix, sorted by name."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _IMAGE_SUFFIXES and not _hidden(path)
    )


def _hidden(path: Path) -> bool:
    # Desktops leave hidden files beside the images: .ipynb_checkpoints, ._0001.jpg.
    return path.name.startswith(".")


def class_folder_images(root: Path) -> dict[str, list[Path]]:
    """Return the images of every class folder that has any, both in sorted order."""
    found = {folder.name: images_in(folder) for folder in subfolders(root)}
    return {name: images for name, images in found.items() if images}


def read_image(path: Path, mode: Literal["RGB", "L"] = "RGB") -> Image.Image:
    """Read an image file as 8-bit colour or grey values.

    Raises:
        DatasetError: It cannot be decoded, has more than 8 bits a channel, or more pixels than a
            file of its size should have.
    """
    try:
        with Image.open(path) as opened:
            size = math.prod(opened.size) * len(opened.getbands())
            Budget(path.stat().st_size).require(budgets.BYTES, size, str(path), DatasetError)
            if opened.mode.startswith(("I", "F")):
                raise _unreadable(path, f"pixels of kind {opened.mode}, not of 8 bits")
            image: Image.Image = opened.convert(mode)
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0
        got = "an empty file" if empty else "a file of no known image format"
        raise _unreadable(path, got) from error
    except _DECODING_ERRORS as error:
        raise _unreadable(path, str(error) or type(error).__name__) from error
    return image


def _unreadable(path: Path, got: str) -> DatasetError:
    return DatasetError(
        "An image cannot be read.", where=str(path), got=got, fix="replace or remove it"
    )
