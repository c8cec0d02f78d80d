"""Where images lie: the folders that are searched, and folders that are named after classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from apot_export.errors import DatasetError

ROOT_VARIABLE = "APOT_EXPORT_DATA"
"""Environment variable that names the folder in which datasets are looked for."""

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


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
    """Return the error that says what was looked for, and in which folders."""
    return DatasetError(
        f"The {name} images were not found.",
        where=", ".join(str(folder) for folder in searched),
        expected=expected,
        fix=f"say where they are with --data FOLDER, or set {ROOT_VARIABLE}",
    )


def class_folder_images(root: Path) -> dict[str, list[Path]]:
    """Return the images of every class folder, both in sorted order."""
    if not root.is_dir():
        return {}
    return {
        folder.name: images
        for folder in sorted(path for path in root.iterdir() if path.is_dir())
        if (
            images := sorted(
                path for path in folder.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES
            )
        )
    }


def read_image(path: Path) -> Image.Image:
    """Read an image file as RGB.

    Raises:
        DatasetError: It cannot be decoded.
    """
    try:
        with Image.open(path) as opened:
            image: Image.Image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DatasetError(
            "An image cannot be read.", where=str(path), got=str(error), fix="replace or remove it"
        ) from error
    return image
