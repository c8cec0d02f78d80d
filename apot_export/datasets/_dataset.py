"""Labelled images, and how they become what a network reads."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.datasets import _prefetch
from apot_export.datasets._normalisation import ALQ_CODE, APOT_CODE, Normalisation
from apot_export.datasets._prefetch import Batch, Load
from apot_export.errors import DatasetError

UNLABELLED = -1
_UNCHANGED = Normalisation(mean=(0.0,), std=(1.0,))


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Labelled images, preprocessed when they are asked for."""

    name: str
    root: str
    """Folder that the images were found in."""
    labels: NDArray[np.int64]
    """[images]: class of each image, from 0; `UNLABELLED` for all of them where none is known."""
    load: Load
    """Returns image i as float32 [channels, height, width]; raises DatasetError if it is damaged.
    May be called from several threads at once."""
    names: Sequence[str] = ()
    """What to call each image in a report: its path below `root`. Left out: "image 0" and so on."""
    classes: Sequence[str] | None = None
    """What to call each class, by label; None where that is not known."""
    picture: Callable[[NDArray[np.float32]], NDArray[np.uint8]] = _UNCHANGED.picture
    """Turns preprocessed pixels, float32 [channels, height, width], back into what a person would
    see, uint8 [height, width, channels]."""

    def __post_init__(self) -> None:
        if not self.names:
            object.__setattr__(self, "names", [f"image {index}" for index in range(len(self))])

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def labelled(self) -> bool:
        """Whether the classes of the images are known."""
        return bool((self.labels != UNLABELLED).all())

    def without_labels(self) -> Dataset:
        """Return the same images with no label."""
        return replace(self, labels=np.full(len(self), UNLABELLED, np.int64))

    def first(self, limit: int | None) -> Dataset:
        """Return the dataset, or `limit` images spread evenly over it."""
        if limit is None or limit >= len(self):
            return self
        spread = np.linspace(0, len(self) - 1, _at_least_one(limit)).round()
        return self.chosen(spread.astype(np.int64))

    def sample(self, limit: int | None, seed: int = 0) -> Dataset:
        """Return the dataset, or a random sample of it: see `sampled`."""
        positions = self.sampled(limit, seed)
        return self if len(positions) == len(self) else self.chosen(positions)

    def sampled(self, limit: int | None, seed: int = 0) -> NDArray[np.int64]:
        """Return the positions of all images, or of a random `limit`, every class in its share.

        The positions ascend; the same seed gives the same ones.

        Raises:
            DatasetError: The limit is below 1.
        """
        if limit is None or limit >= len(self):
            return np.arange(len(self))
        return _stratified(self.labels, _at_least_one(limit), seed)

    def chosen(self, chosen: NDArray[np.int64]) -> Dataset:
        """Return the images at some positions."""
        return replace(
            self,
            labels=self.labels[chosen],
            load=lambda index: self.load(int(chosen[index])),
            names=[self.names[index] for index in chosen],
        )

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Yield (images float32 [n, channels, height, width], labels int64 [n]).

        Raises:
            DatasetError: An image cannot be read.
        """
        for start in range(0, len(self), size):
            indices = range(start, min(start + size, len(self)))
            yield np.stack([self.load(i) for i in indices]), self.labels[start : indices.stop]

    def prefetched(self, ranges: Sequence[range], workers: int) -> Generator[Batch, None, None]:
        """Yield the images of each range, read ahead by threads: see `_prefetch.prefetched`."""
        return _prefetch.prefetched(self.load, self.labels, ranges, workers)


def dataset_of_files(
    name: str,
    root: Path,
    labelled: Sequence[tuple[Path, int]],
    read: Callable[[Path], NDArray[np.uint8]],
    *,
    normalisation: Normalisation,
    classes: Sequence[str] | None,
) -> Dataset:
    """Return the dataset of image files below a folder, given as (path, label).

    `read` returns a file's pixels as uint8 [height, width, channels].
    """
    return Dataset(
        name=name,
        root=str(root),
        labels=np.array([label for _, label in labelled], np.int64),
        load=lambda index: normalisation(read(labelled[index][0])),
        names=[path.relative_to(root).as_posix() for path, _ in labelled],
        classes=classes,
        picture=normalisation.picture,
    )


def _at_least_one(limit: int) -> int:
    if limit < 1:
        raise DatasetError("At least one image is needed.", got=f"a limit of {limit}")
    return limit


def _stratified(labels: NDArray[np.int64], limit: int, seed: int) -> NDArray[np.int64]:
    """Return the positions of a random sample that holds every class in its share.

    A class of n images gets limit * n / N of them, rounded down; what is left goes to the largest
    remainders, equal ones in random order (Hamilton's method). Within a class every image is as
    likely as any other. The same seed gives the same sample.

    Args:
        labels: Of all N images: int64 [N].
        limit: Size of the sample, at most N.
        seed: Of numpy's default generator.

    Returns:
        int64 [limit], ascending.
    """
    random = np.random.default_rng(seed)
    _, members, counts = np.unique(labels, return_inverse=True, return_counts=True)
    quotas, remainders = np.divmod(limit * counts.astype(np.int64), len(labels))
    by_remainder = np.lexsort((random.permutation(len(counts)), -remainders))
    quotas[by_remainder[: limit - int(quotas.sum())]] += 1
    # In a random order of all images, each class's first ones are a random choice of its images.
    shuffled = random.permutation(len(labels))
    grouped = shuffled[np.argsort(members[shuffled], kind="stable")]
    starts = np.cumsum(counts) - counts
    rank = np.arange(len(labels)) - np.repeat(starts, counts)
    return np.sort(grouped[rank < np.repeat(quotas, counts)]).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class DatasetKind:
    """A dataset that can be opened by name."""

    name: str
    input_shape: tuple[int, int, int]
    """One image: (channels, height, width)."""
    classes: int
    opener: Callable[[Path | None, Normalisation], Dataset]
    """Opens the images of a folder, normalised: see `open`."""
    normalisations: Mapping[str, Normalisation] = field(default_factory=dict)
    """Of 8-bit pixels, by training code; other codes use that of `APOT_CODE`. Empty for images that
    have no 8-bit pixels."""
    otherwise: Normalisation = _UNCHANGED
    """Of the pixels of such images."""
    names: Callable[[], Sequence[str]] = tuple
    """Returns what to call each class, by label; none where that is not known."""
    resized: int | None = None
    """Pixels of the shorter side that images are resized to before they are cropped at the centre;
    None where they have the network's size."""

    def normalisation(self, preprocessing: str = APOT_CODE) -> Normalisation | None:
        """Return the normalisation of 8-bit pixels by a training code, "apot-code" or "alq-code".

        None for images that have no 8-bit pixels.

        Raises:
            DatasetError: No such training code is known.
        """
        if preprocessing not in {APOT_CODE, ALQ_CODE}:
            raise DatasetError(
                "The preprocessing is unknown.",
                expected=f"{APOT_CODE} or {ALQ_CODE}",
                got=preprocessing,
            )
        return self.normalisations.get(preprocessing, self.normalisations.get(APOT_CODE))

    def open(self, data: Path | None, preprocessing: str = APOT_CODE) -> Dataset:
        """Open the dataset with the preprocessing of a training code.

        Args:
            data: Folder of the images; None for $APOT_EXPORT_DATA or ./data.
            preprocessing: "apot-code" or "alq-code": whose mean and deviation are used.

        Raises:
            DatasetError: The images are missing or malformed.
        """
        return self.opener(data, self.pixels(preprocessing))

    def pixels(self, preprocessing: str = APOT_CODE) -> Normalisation:
        """Return what makes images of the dataset's own pixels, of however many bits they are."""
        return self.normalisation(preprocessing) or self.otherwise

    def preprocessing(self, code: str = APOT_CODE) -> dict[str, Any]:
        """Return what FORMAT.md describes in section 2.6.

        Args:
            code: The training code, "apot-code" or "alq-code".
        """
        channels, *size = self.input_shape
        pixels = self.pixels(code)
        return {
            "dataset": self.name,
            "channels": "grey" if channels == 1 else "RGB",
            "resize": self.resized,
            "crop": None if self.resized is None else size,
            "range": [0, pixels.white],
            "mean": list(pixels.mean),
            "std": list(pixels.std),
        }
