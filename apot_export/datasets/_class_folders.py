"""Images in class folders, or in one folder without labels, fitted to a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from apot_export.datasets._dataset import UNLABELLED, Dataset, DatasetKind, dataset_of_files
from apot_export.datasets._imagenet import NORMALISATION as IMAGENET_NORMALISATION
from apot_export.datasets._locating import (
    candidate_roots,
    images_in,
    missing,
    read_image,
    subfolders,
)
from apot_export.datasets._normalisation import APOT_CODE, Normalisation
from apot_export.errors import DatasetError

NAME = "folder"
_SMALLEST_CROPPED = 64
"""Networks of smaller images were trained on whole images."""
_SHOWN = 5


def folder_kind(
    input_shape: Sequence[int],
    classes: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> DatasetKind:
    """Return a dataset of images in one folder per class, or in one folder without labels.

    Folders in sorted order are the classes 0, 1, ...; folders that are all named by numbers below
    `classes` are the classes of these numbers, and some may be missing then. (torchvision's
    ImageFolder sorts numbers as text: a network trained with it calls "10" class 2 of 11, so name
    such folders by what the network calls them.)

    Images become RGB, or grey for networks of one channel. For networks of 64 rows or more they are
    resized, keeping their proportions, until the shorter side is 256/224 of the network's, and
    cropped at the centre; for smaller ones those of another size are resized to the network's.

    Args:
        input_shape: Of one image: (channels, height, width), of 1 or 3 channels.
        classes: Of the network.
        mean: Per channel, of pixels scaled to [0, 1]; None for ImageNet's (0.485, 0.456, 0.406), or
            for 0 with one channel.
        std: Likewise; None for ImageNet's (0.229, 0.224, 0.225), or for 1 with one channel.

    Raises:
        DatasetError: The network does not read images, or mean and deviation are not one number per
            channel.
    """
    shape = _image_shape(input_shape)
    return DatasetKind(
        name=NAME,
        input_shape=shape,
        classes=classes,
        opener=lambda data, normalisation: _open(data, shape, classes, normalisation),
        normalisations={APOT_CODE: _normalisation(shape[0], mean, std)},
    )


def _image_shape(input_shape: Sequence[int]) -> tuple[int, int, int]:
    if len(input_shape) != 3 or input_shape[0] not in {1, 3}:  # noqa: PLR2004 - C, H, W
        raise DatasetError(
            "The network does not read images.",
            expected="an input of [channels, height, width] with 1 or 3 channels",
            got=str(list(input_shape)),
        )
    channels, height, width = input_shape
    return channels, height, width


def _normalisation(
    channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normalisation:
    if mean is None and std is None:
        # Grey networks have no convention in common: pixels are left between 0 and 1.
        return IMAGENET_NORMALISATION if channels != 1 else Normalisation(mean=(0.0,), std=(1.0,))
    if mean is None or std is None:
        raise DatasetError(
            "Mean and deviation belong together.",
            expected="both",
            got="the mean only" if std is None else "the deviation only",
        )
    if not (
        len(mean) == len(std) == channels
        and all(math.isfinite(value) for value in (*mean, *std))
        and min(std) > 0
    ):
        raise DatasetError(
            "Mean and deviation do not fit the network's images.",
            expected=f"{channels} numbers each, deviations above 0, of pixels scaled to [0, 1]",
            got=f"mean {', '.join(map(str, mean))}; deviation {', '.join(map(str, std))}",
        )
    return Normalisation(mean=tuple(mean), std=tuple(std))


def _open(
    data: Path | None, shape: tuple[int, int, int], classes: int, normalisation: Normalisation
) -> Dataset:
    roots = candidate_roots(data, ())
    for root in roots:
        folders = {folder.name: images_in(folder) for folder in subfolders(root)}
        flat = images_in(root)
        if any(folders.values()):
            labels = _labels(root, list(folders), classes)
            names = {label: name for name, label in labels.items()}
            return dataset_of_files(
                NAME,
                root,
                [(path, labels[folder]) for folder, images in folders.items() for path in images],
                _reader(shape),
                normalisation=normalisation,
                classes=tuple(names.get(label, str(label)) for label in range(classes)),
            )
        if flat:
            return dataset_of_files(
                NAME,
                root,
                [(path, UNLABELLED) for path in flat],
                _reader(shape),
                normalisation=normalisation,
                classes=None,
            )
    expected = f"one folder per class, {classes} of them, or images without labels in the folder"
    raise missing(f"{NAME} dataset's", roots, expected)


def _reader(shape: tuple[int, int, int]) -> Callable[[Path], NDArray[np.uint8]]:
    """Return what reads an image file as pixels of a network's shape, uint8 [H, W, C]."""
    channels, height, width = shape
    fit = _fitting(height, width)

    def read(path: Path) -> NDArray[np.uint8]:
        image = fit(read_image(path, "L" if channels == 1 else "RGB"))
        return np.asarray(image, dtype=np.uint8).reshape(height, width, channels)

    return read


def _labels(root: Path, names: Sequence[str], classes: int) -> dict[str, int]:
    """Return the class of every folder."""
    if all(name.isascii() and name.isdecimal() for name in names):
        labels = {name: int(name) for name in names}
        beyond = [name for name, label in labels.items() if label >= classes]
        if not beyond:
            return labels
        # Sorted as text, 10 would stand before 2: no order of these is safe to assume.
        expected, got = f"numbers from 0 to {classes - 1}, or names", ", ".join(beyond[:_SHOWN])
    elif len(names) == classes:
        return {name: label for label, name in enumerate(names)}
    else:
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        expected, got = f"{classes} folders, one per class", f"{len(names)}: {shown}"
    raise DatasetError(
        "The class folders do not fit the network's classes.",
        where=str(root),
        expected=expected,
        got=got,
        fix="make a folder for each class, empty if it has no images, or name folders by the "
        "number of the class, from 0",
    )


def _fitting(height: int, width: int) -> Callable[[Image.Image], Image.Image]:
    """Return the transform that brings an image to the network's height and width."""
    from torchvision import transforms  # it takes seconds, and not every dataset needs it

    if height >= _SMALLEST_CROPPED:
        # Of the longer side if that is the width: the crop must not reach beyond the image.
        resized = round(max(height, width) * 256 / 224)
        crop: Callable[[Image.Image], Image.Image] = transforms.Compose(
            [transforms.Resize(resized), transforms.CenterCrop((height, width))]
        )
        return crop
    resize = transforms.Resize((height, width))
    return lambda image: image if image.size == (width, height) else resize(image)
