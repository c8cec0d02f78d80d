"""Datasets with the preprocessing that each family was trained with."""

from __future__ import annotations

from collections.abc import Sequence

from apot_export.datasets._cifar import CIFAR10, CIFAR100
from apot_export.datasets._dataset import Dataset, DatasetKind
from apot_export.datasets._digits import DIGITS
from apot_export.datasets._folders import ROOT_VARIABLE
from apot_export.datasets._imagenet import IMAGENET
from apot_export.datasets._mnist import MNIST
from apot_export.errors import DatasetError

KINDS: tuple[DatasetKind, ...] = (CIFAR10, CIFAR100, MNIST, IMAGENET, DIGITS)


def kind_by_name(name: str) -> DatasetKind:
    """Return the dataset of a name.

    Raises:
        DatasetError: There is none of this name.
    """
    for kind in KINDS:
        if kind.name == name:
            return kind
    raise DatasetError(
        "There is no such dataset.",
        expected=", ".join(kind.name for kind in KINDS),
        got=name,
        fix="name one of these with --dataset",
    )


def kind_for_network(input_shape: Sequence[int], classes: int) -> DatasetKind:
    """Return the only dataset that fits a network.

    Raises:
        DatasetError: None or several fit.
    """
    fitting = [
        kind for kind in KINDS if kind.input_shape == tuple(input_shape) and kind.classes == classes
    ]
    if len(fitting) != 1:
        raise DatasetError(
            "The dataset cannot be told from the network.",
            expected=", ".join(kind.name for kind in fitting or KINDS),
            got=f"images {list(input_shape)}, {classes} classes",
            fix="name it with --dataset",
        )
    return fitting[0]


def kind_of(name: str | None, input_shape: Sequence[int], classes: int) -> DatasetKind:
    """Return the dataset of a name if it fits a network; without a name the only one that fits.

    Raises:
        DatasetError: There is none of this name, it does not fit, or none or several fit.
    """
    if name is None:
        return kind_for_network(input_shape, classes)
    kind = kind_by_name(name)
    if (kind.input_shape, kind.classes) != (tuple(input_shape), classes):
        raise DatasetError(
            f"The {kind.name} dataset does not fit the network.",
            expected=f"images {list(input_shape)}, {classes} classes",
            got=f"images {list(kind.input_shape)}, {kind.classes} classes",
            fix="name the dataset that the network was trained on with --dataset",
        )
    return kind


__all__ = [
    "KINDS",
    "ROOT_VARIABLE",
    "Dataset",
    "DatasetKind",
    "kind_by_name",
    "kind_for_network",
    "kind_of",
]
