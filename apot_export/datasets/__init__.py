"""Datasets with the preprocessing of each training code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apot_export.datasets._arrays import ArrayFile, open_arrays
from apot_export.datasets._cifar import CIFAR10, CIFAR100
from apot_export.datasets._class_folders import NAME as FOLDER
from apot_export.datasets._class_folders import folder_kind
from apot_export.datasets._dataset import UNLABELLED, Dataset, DatasetKind
from apot_export.datasets._digits import DIGITS
from apot_export.datasets._imagenet import IMAGENET
from apot_export.datasets._locating import ROOT_VARIABLE
from apot_export.datasets._mnist import MNIST
from apot_export.datasets._normalisation import APOT_CODE, Normalisation
from apot_export.datasets._prefetch import Batch
from apot_export.errors import DatasetError

KINDS: tuple[DatasetKind, ...] = (CIFAR10, CIFAR100, MNIST, IMAGENET, DIGITS)
"""The datasets of fixed image shape and classes."""

NAMES = (*(kind.name for kind in KINDS), FOLDER)
"""Names for --dataset; `folder` takes image shape and classes from the network."""


def kind_by_name(name: str) -> DatasetKind:
    """Return the dataset of fixed image shape that has a name.

    Raises:
        DatasetError: No such dataset has this name.
    """
    found = {kind.name: kind for kind in KINDS}.get(name)
    if found is not None:
        return found
    if name == FOLDER:
        raise DatasetError(
            f"The dataset {FOLDER} has no fixed image shape.",
            expected=", ".join(kind.name for kind in KINDS),
            got=name,
            fix="open it for a network",
        )
    raise DatasetError(
        "There is no such dataset.",
        expected=", ".join(NAMES),
        got=name,
        fix="name one of these with --dataset",
    )


def kind_of(name: str | None, input_shape: Sequence[int], classes: int) -> DatasetKind:
    """Return the dataset of a name if it fits a network; without a name the only one that fits.

    The dataset named `folder` fits every network of images; it is never chosen without its name.

    Raises:
        DatasetError: No dataset has this name, it does not fit, or none or several fit.
    """
    if name == FOLDER:
        return folder_kind(input_shape, classes)
    named = KINDS if name is None else (kind_by_name(name),)
    shape = tuple(input_shape)
    fitting = [kind for kind in named if (kind.input_shape, kind.classes) == (shape, classes)]
    if len(fitting) == 1:
        return fitting[0]
    network = f"images {list(shape)}, {classes} classes"
    if name is None:
        raise DatasetError(
            "The dataset cannot be told from the network.",
            expected=", ".join(kind.name for kind in fitting or KINDS),
            got=network,
            fix=f"name it with --dataset; {FOLDER} reads other images, --images arrays",
        )
    raise DatasetError(
        f"The {name} dataset does not fit the network.",
        expected=network,
        got=f"images {list(named[0].input_shape)}, {named[0].classes} classes",
        fix="name the dataset that the network was trained on with --dataset",
    )


def open_dataset(
    name: str | None,
    *,
    input_shape: Sequence[int],
    classes: int,
    data: Path | None,
    preprocessing: str = APOT_CODE,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Dataset:
    """Open the labelled images on which a network is to be run.

    Args:
        name: One of `NAMES`; None for the only one of `KINDS` that fits the network.
        input_shape: One image of the network: (channels, height, width).
        classes: Of the network.
        data: Folder of the images; None for $APOT_EXPORT_DATA or ./data.
        preprocessing: Whose mean and deviation to use: "apot-code" or "alq-code".
        mean: Per channel, of pixels scaled to [0, 1], for the dataset `folder`: see `folder_kind`.
        std: Likewise.

    Raises:
        DatasetError: The images are missing or do not fit the network.
    """
    if name == FOLDER:
        kind = folder_kind(input_shape, classes, mean, std)
    else:
        kind = kind_of(name, input_shape, classes)
        if mean is not None or std is not None:
            raise DatasetError(
                "Mean and deviation can be given for the dataset folder only.",
                expected=f"the dataset {FOLDER}",
                got=f"the dataset {kind.name}, whose mean and deviation are known",
                fix="leave them out",
            )
    dataset = kind.open(data, preprocessing)
    if len(dataset) == 0:
        raise DatasetError("The dataset holds no images.", where=dataset.root)
    return dataset


def normalisation_of(
    name: str | None,
    *,
    input_shape: Sequence[int],
    classes: int,
    preprocessing: str = APOT_CODE,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Normalisation | None:
    """Return the normalisation of pixels that come as arrays; None where a dataset has none.

    It is that of the named dataset, or of the only one that fits the network; mean and deviation
    are used where they are given. The arguments are those of `open_dataset`.

    Raises:
        DatasetError: No dataset has this name, or none or several fit the network.
    """
    if name == FOLDER or mean is not None or std is not None:
        return folder_kind(input_shape, classes, mean, std).normalisation()
    kind = kind_of(None, input_shape, classes) if name is None else kind_by_name(name)
    return kind.normalisation(preprocessing)


__all__ = [
    "KINDS",
    "NAMES",
    "ROOT_VARIABLE",
    "UNLABELLED",
    "ArrayFile",
    "Batch",
    "Dataset",
    "DatasetKind",
    "Normalisation",
    "folder_kind",
    "kind_by_name",
    "kind_of",
    "normalisation_of",
    "open_arrays",
    "open_dataset",
]
