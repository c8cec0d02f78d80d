"""Labelled images, and how they become what a network reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apot_export.errors import DatasetError

Load = Callable[[int], NDArray[np.float32]]
Opener = Callable[[Path | None, str | None], "Dataset"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Labelled images, preprocessed when they are asked for."""

    name: str
    root: str
    """Folder that the images were found in."""
    labels: NDArray[np.int64]
    """[images]"""
    load: Load
    """Returns image i as float32 [channels, height, width]."""

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, limit: int | None) -> Dataset:
        """Return the dataset, or `limit` images spread evenly over it."""
        if limit is None or limit >= len(self):
            return self
        if limit < 1:
            raise DatasetError("At least one image is needed.", got=f"a limit of {limit}")
        chosen = np.linspace(0, len(self) - 1, limit).round().astype(np.int64)
        return Dataset(
            name=self.name,
            root=self.root,
            labels=self.labels[chosen],
            load=lambda index: self.load(int(chosen[index])),
        )

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Yield (images float32 [n, channels, height, width], labels int64 [n])."""
        for start in range(0, len(self), size):
            indices = range(start, min(start + size, len(self)))
            yield np.stack([self.load(i) for i in indices]), self.labels[start : indices.stop]


@dataclass(frozen=True, kw_only=True)
class DatasetKind:
    """A dataset that can be asked for by name."""

    name: str
    input_shape: tuple[int, int, int]
    """One image: (channels, height, width)."""
    classes: int
    opener: Opener
    """Opens the dataset: see `open`."""
    normalisation: Callable[[str | None], Normalisation] | None = None
    """Normalisation of 8-bit pixels that a family was trained with; None where pixels are none."""

    def open(self, data: Path | None, family: str | None = None) -> Dataset:
        """Open the dataset with the preprocessing that a family was trained with.

        Args:
            data: Folder of the images; None for $APOT_EXPORT_DATA or ./data.
            family: Name of the checkpoint family; None for that of the APoT codes.

        Raises:
            DatasetError: The images are not there, or are not what they must be.
        """
        return self.opener(data, family)


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Mean and deviation per channel, of pixels scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (pixels / 255 - mean) / std: uint8 [H, W, C] to float32 [C, H, W].

        >>> half = Normalisation(mean=(0.5,), std=(0.25,))
        >>> half(np.array([[[0], [255]]], dtype=np.uint8)).tolist()
        [[[-2.0, 2.0]]]
        """
        mean, std = (
            np.array(values, dtype=np.float32).reshape(-1, 1, 1) for values in (self.mean, self.std)
        )
        image = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        return np.asarray((image - mean) / std, dtype=np.float32)
