"""The embedded test split of scikit-learn's 8 x 8 digits."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from apot_export.datasets._dataset import Dataset, DatasetKind
from apot_export.datasets._normalisation import Normalisation
from apot_export.errors import DatasetError

_CLASSES = 10


def _open(data: Path | None, normalisation: Normalisation) -> Dataset:
    """Open the split; pixels 0 to 16 become 0 to 1."""
    if data is not None:
        raise DatasetError(
            "The digits are part of apot-export and are read from nowhere else.",
            got=f"--data {data}",
            fix="leave out --data",
        )
    with (
        resources.files("apot_export.datasets").joinpath("data/digits_test.npz").open("rb") as file
    ):
        arrays = np.load(file, allow_pickle=False)
        images, labels = arrays["images"], arrays["labels"]
    return Dataset(
        name="digits",
        root="embedded",
        labels=labels.astype(np.int64),
        load=lambda index: normalisation(images[index].transpose(1, 2, 0)),
        classes=_names(),
    )


def _names() -> tuple[str, ...]:
    return tuple(str(digit) for digit in range(_CLASSES))


DIGITS = DatasetKind(
    name="digits",
    input_shape=(1, 8, 8),
    classes=_CLASSES,
    opener=_open,
    otherwise=Normalisation(mean=(0.0,), std=(1.0,), white=16),
    names=_names,
)
