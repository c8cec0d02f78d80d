"""Read images ahead by threads while batches are computed; unreadable images are skipped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from apot_export.errors import DatasetError

Load = Callable[[int], NDArray[np.float32]]
Read = NDArray[np.float32] | str
"""One image, or why it could not be read."""

_AHEAD = 2
"""Batches that are read before they are asked for. With one, the threads would be idle whenever
computing a batch takes less time than reading one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Images of one range of a dataset, of which some may have been unreadable."""

    indices: NDArray[np.int64]
    """Positions in the dataset of the images that could be read: [n]"""
    images: NDArray[np.float32]
    """[n, channels, height, width]; where none could be read all four are 0."""
    labels: NDArray[np.int64]
    """[n]"""
    skipped: tuple[tuple[int, str], ...]
    """(position, reason) of each image that could not be read."""

    def first(self) -> Batch:
        """Return the batch of the first image alone."""
        return replace(
            self, indices=self.indices[:1], images=self.images[:1], labels=self.labels[:1]
        )


def prefetched(
    load: Load, labels: NDArray[np.int64], ranges: Sequence[range], workers: int
) -> Generator[Batch, None, None]:
    """Yield the images of each range, in order, read by threads at most two batches ahead.

    Decoding and resizing release Python's lock, so threads suffice. They end with the iterator,
    whether it is exhausted, closed, or left by an exception.

    Args:
        load: Returns image i as float32 [channels, height, width].
        labels: Of all images: int64.
        ranges: Positions of the images of each batch.
        workers: Threads; 0 reads in the caller's thread, when a batch is asked for.

    Raises:
        Exception: Whatever `load` raises except a DatasetError, which skips its image.
    """
    if workers < 1:
        for indices in ranges:
            yield _batch(indices, [_read(load, index) for index in indices], labels)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="apot-export-images")
    try:
        remaining = iter(ranges)
        waiting: deque[tuple[range, list[Future[Read]]]] = deque()

        def submit(batches: int) -> None:
            for indices in islice(remaining, batches):
                waiting.append((indices, [pool.submit(_read, load, index) for index in indices]))

        submit(1 + _AHEAD)
        while waiting:
            indices, futures = waiting.popleft()
            yield _batch(indices, [future.result() for future in futures], labels)
            submit(1)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read(load: Load, index: int) -> Read:
    try:
        return load(index)
    except DatasetError as error:
        return _reason(error)


def _reason(error: DatasetError) -> str:
    """Return an error about one image as one line, without the image's path."""
    details = ", ".join(
        f"{label} {text}" for label, text in error.details() if label in {"expected", "got"}
    )
    return " ".join(": ".join([error.what.rstrip("."), *filter(None, [details])]).split())


def _batch(indices: range, read: list[Read], labels: NDArray[np.int64]) -> Batch:
    found = dict(zip(indices, read, strict=True))
    images = {i: image for i, image in found.items() if not isinstance(image, str)}
    good = np.array(list(images), dtype=np.int64)
    return Batch(
        indices=good,
        images=np.stack(list(images.values())) if images else np.zeros((0, 0, 0, 0), np.float32),
        labels=labels[good],
        skipped=tuple((i, reason) for i, reason in found.items() if isinstance(reason, str)),
    )
