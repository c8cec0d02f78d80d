"""MNIST: the official archives of the test half, in the IDX format.

Source: http://yann.lecun.com/exdb/mnist/, "The IDX file format".
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apot_export import budgets
from apot_export.budgets import Budget
from apot_export.datasets._dataset import Dataset, DatasetKind
from apot_export.datasets._locating import candidate_roots, missing
from apot_export.datasets._normalisation import ALQ_CODE, APOT_CODE, Normalisation
from apot_export.errors import DatasetError

_IMAGES, _LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
_FOLDERS = ("raw", "MNIST/raw", "MNIST", "mnist/raw", "mnist")
_IMAGE_SIZE = (28, 28)
_CLASSES = 10
_UNSIGNED_BYTES = 0x08
"""The format's code of the element type uint8."""


def _open(data: Path | None, normalisation: Normalisation) -> Dataset:
    roots = candidate_roots(data, _FOLDERS)
    for root in roots:
        paths = _file(root, _IMAGES), _file(root, _LABELS)
        if any(paths):
            return _archives(root, paths, normalisation)
    raise missing("MNIST test", roots, f"{_IMAGES} and {_LABELS}, each plain or .gz")


def _file(root: Path, name: str) -> Path | None:
    """Return the archive of a name, unpacked or as published."""
    return next((p for p in (root / name, root / f"{name}.gz") if p.is_file()), None)


def _archives(
    root: Path, paths: tuple[Path | None, Path | None], normalisation: Normalisation
) -> Dataset:
    images_path, labels_path = paths
    if images_path is None or labels_path is None:
        raise DatasetError(
            "One of MNIST's two archives is missing.",
            where=str(root),
            expected=f"{_IMAGES} and {_LABELS}, each plain or .gz",
            got=str((images_path or labels_path or root).name),
            fix="put the other one beside it",
        )
    pixels = _read(images_path, _IMAGE_SIZE)
    labels = _read(labels_path, ())
    if len(pixels) != len(labels) or (labels >= _CLASSES).any():
        raise DatasetError(
            "MNIST's labels do not fit its images.",
            where=str(labels_path),
            expected=f"{len(pixels)} labels from 0 to {_CLASSES - 1}",
            got=f"{len(labels)} labels up to {int(labels.max(initial=0))}",
            fix="copy or download both files again",
        )
    return Dataset(
        name="mnist",
        root=str(root),
        labels=labels.astype(np.int64),
        load=lambda index: normalisation(pixels[index, :, :, np.newaxis]),
        classes=_names(),
        picture=normalisation.picture,
    )


def _read(path: Path, item_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes: uint8 [items, *item_shape].

    Raises:
        DatasetError: It is truncated, damaged, too long, or of another shape.
    """
    header = struct.Struct(f">HBB{1 + len(item_shape)}I")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            start = file.read(header.size)
            if len(start) != header.size:
                raise _damaged(path, f"{len(start)} bytes", f"a header of {header.size} bytes")
            zero, kind, axes, count, *shape = header.unpack(start)
            if (zero, kind, axes, *shape) != (
                0,
                _UNSIGNED_BYTES,
                1 + len(item_shape),
                *item_shape,
            ):
                wanted = f"unsigned bytes of shape {['images', *item_shape]}"
                raise _damaged(path, f"a header {start.hex(' ')}", wanted)
            size = count * int(np.prod(item_shape, dtype=np.int64))
            Budget(path.stat().st_size).require(budgets.BYTES, size, str(path), DatasetError)
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error), "a complete archive") from error
    if len(content) != size:
        beyond = "more than " if len(content) > size else ""
        raise _damaged(path, f"{beyond}{min(len(content), size)}", f"{size} bytes of data")
    return np.frombuffer(content, dtype=np.uint8).reshape(count, *item_shape)


def _damaged(path: Path, got: str, expected: str) -> DatasetError:
    return DatasetError(
        "An MNIST archive is damaged.",
        where=str(path),
        expected=expected,
        got=got,
        fix="copy or download the file again",
    )


def _names() -> tuple[str, ...]:
    return tuple(str(digit) for digit in range(_CLASSES))


MNIST = DatasetKind(
    name="mnist",
    input_shape=(1, 28, 28),
    classes=_CLASSES,
    opener=_open,
    names=_names,
    normalisations={
        APOT_CODE: Normalisation(mean=(0.131,), std=(0.308,)),
        ALQ_CODE: Normalisation(mean=(0.1307,), std=(0.3081,)),
    },
)
