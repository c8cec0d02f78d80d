"""Images, and outputs of a network, as arrays in an .npz file that a user's own code wrote."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export import budgets
from apot_export.budgets import Budget
from apot_export.datasets._dataset import UNLABELLED, Dataset
from apot_export.datasets._normalisation import Normalisation
from apot_export.errors import DatasetError

NAME = "arrays"
_WRITE = "numpy.savez(FILE, images=..., labels=...), or logits=... for --reference"


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrayFile:
    """Images of an .npz file, with the outputs that belong to them where the file has them."""

    path: Path
    sha256: str
    dataset: Dataset
    logits: NDArray[np.float64] | None
    """[images, *output shape]"""


def open_arrays(
    path: Path,
    *,
    input_shape: Sequence[int],
    output_shape: Sequence[int],
    normalisation: Callable[[], Normalisation | None],
    with_logits: bool = False,
) -> ArrayFile:
    """Read images, and logits where they are wanted, of an .npz file; nothing is unpickled.

    Args:
        path: File with `images`: float32 [N, C, H, W] as the network reads them, or uint8 pixels of
            that shape. It may have `labels` (integers [N]) and, with `with_logits`, has `logits`
            (float32 or float64, [N, *output shape]).
        input_shape: One image of the network: (channels, height, width).
        output_shape: One output of it, as (classes,) or (classes, height, width).
        normalisation: Returns what makes images of pixels, None where that is not known; called for
            pixels only.
        with_logits: Whether `logits` are read.

    Raises:
        DatasetError: An array is missing, of another type or shape, or not finite.
    """
    arrays = _read(path, ("images", "logits") if with_logits else ("images",))
    images = arrays["images"]
    _require(path, "images", images, ("float32", "uint8"), input_shape)
    if images.dtype == np.uint8:
        images = _normalised(path, images, normalisation())
    classes = output_shape[0] if len(output_shape) == 1 else None
    labels = _labels(path, arrays.get("labels"), len(images), classes)
    logits = arrays.get("logits") if with_logits else None
    if logits is not None:
        _require(path, "logits", logits, ("float32", "float64"), output_shape)
        if len(logits) != len(images):
            got = f"{len(logits)} outputs of {len(images)} images"
            raise _wrong(path, "logits", "one output for each image", got)
    return ArrayFile(
        path=path,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        dataset=Dataset(
            name=NAME,
            root=str(path),
            labels=labels,
            load=lambda index: np.ascontiguousarray(images[index]),
            picture=_picture,
        ),
        logits=None if logits is None else logits.astype(np.float64),
    )


def _read(path: Path, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    try:
        # Where numpy opens the file itself, it leaves one open that it cannot read.
        with path.open("rb") as file:
            return _members(path, np.load(file, allow_pickle=False), wanted)
    except DatasetError:
        raise
    except Exception as error:  # damage lets numpy and zipfile raise even what tokenizers do
        got = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        got = got.splitlines()[0] if got else type(error).__name__
        if "pickled" in got:  # what numpy says of an object array, and of any file it does not know
            got = "something else, or arrays of objects, which are not read"
        raise _wrong(path, None, "an .npz file of plain arrays", got) from error


def _members(path: Path, content: Any, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    if not isinstance(content, np.lib.npyio.NpzFile):
        raise _wrong(path, None, "an .npz file", "a single array")
    names = [name for name in (*wanted, "labels") if name in content.files]
    missing = [name for name in wanted if name not in content.files]
    if missing:
        held = ", ".join(content.files) or "no arrays"
        raise _wrong(path, None, f"arrays named {' and '.join(wanted)}", held)
    budget = Budget(path.stat().st_size)
    for name in names:
        size = _declared_bytes(content, name)
        budget.require(budgets.BYTES, size, f"{path}: {name}", DatasetError)
    return {name: content[name] for name in names}


def _declared_bytes(content: np.lib.npyio.NpzFile, name: str) -> int:
    """Return the bytes that the header of an array states."""
    archive = content.zip
    assert archive is not None, "the file is open"
    entry = name if name in archive.namelist() else f"{name}.npy"
    with archive.open(entry) as member:
        version = np.lib.format.read_magic(member)
        newer = version != (1, 0)
        read = np.lib.format.read_array_header_2_0 if newer else np.lib.format.read_array_header_1_0
        shape, _, dtype = read(member)
    return math.prod(shape) * dtype.itemsize


def _require(
    path: Path, name: str, array: NDArray[Any], types: Sequence[str], shape: Sequence[int]
) -> None:
    """Raise `DatasetError` unless an array is finite, of one of the types, of shape [N, *shape]."""
    if array.dtype.name not in types:
        raise _wrong(path, name, " or ".join(types), array.dtype.name)
    if array.ndim == 0 or array.shape[1:] != tuple(shape) or len(array) == 0:
        expected = f"[N, {', '.join(map(str, shape))}] with N of 1 or more"
        raise _wrong(path, name, expected, str(list(array.shape)))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        got = f"{int((~np.isfinite(array)).sum())} NaN or infinite of {array.size}"
        raise _wrong(path, name, "finite numbers", got)


def _normalised(
    path: Path, pixels: NDArray[Any], normalisation: Normalisation | None
) -> NDArray[np.float32]:
    if normalisation is None:
        raise _wrong(
            path,
            "images",
            "float32, as the network reads them; or beside uint8 pixels, a dataset whose mean and "
            "deviation are known (--dataset NAME), or --dataset folder with --mean and --std",
            "uint8",
        )
    return np.stack([normalisation(image.transpose(1, 2, 0)) for image in pixels])


def _labels(
    path: Path, labels: NDArray[Any] | None, count: int, classes: int | None
) -> NDArray[np.int64]:
    if labels is None or classes is None:
        return np.full(count, UNLABELLED, np.int64)
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        got = f"{labels.dtype.name} {list(labels.shape)}"
        raise _wrong(path, "labels", f"integers [{count}]", got)
    if labels.min() < 0 or labels.max() >= classes:
        got = f"{labels.min()} to {labels.max()}"
        raise _wrong(path, "labels", f"classes 0 to {classes - 1}", got)
    return labels.astype(np.int64)


def _picture(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Show an image whose normalisation is not known: its values from darkest to brightest."""
    low, high = float(image.min()), float(image.max())
    shown = image if len(image) in {1, 3} else image[:1]
    return np.rint((shown - low) * (255 / (high - low or 1))).astype(np.uint8).transpose(1, 2, 0)


def _wrong(path: Path, array: str | None, expected: str, got: str) -> DatasetError:
    return DatasetError(
        "The arrays cannot be used.",
        where=str(path) if array is None else f"{path}: {array}",
        expected=expected,
        got=got,
        fix=f"write them with {_WRITE} as examples/dump_reference.py does",
    )
