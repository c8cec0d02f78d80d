"""Running all sides over shards of a dataset, some of them in other processes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apot_export.datasets import Batch, Dataset
from apot_export.runtimes.torch_runtime import Executor
from apot_export.verification.running.accuracy import MOST_FLIPPED, Comparison, Measured

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""

_MOST_SHARDS = 256


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Everything that a batch is run on."""

    original: Executor
    exports: Mapping[str, Executor]
    """By name; the first one is the export of the verdict."""
    twins: Mapping[str, Executor]
    """The original computed another way, by what is different."""
    twin_images: int
    """Batches that begin before this image are run on the twins: a yardstick needs no more."""
    processes: int = 1


def plan_shards(images: int, batch_size: int) -> list[range]:
    """Cut a dataset into at most 256 shards of whole batches.

    >>> plan_shards(10, 4)
    [range(0, 4), range(4, 8), range(8, 10)]
    """
    batches = -(-images // batch_size)
    size = -(-batches // _MOST_SHARDS) * batch_size
    return [range(start, min(start + size, images)) for start in range(0, images, size)]


def run_shards(
    dataset: Dataset,
    sides: Sides,
    shards: Mapping[int, range],
    *,
    batch_size: int,
    workers: int,
    progress: Progress,
) -> Iterator[tuple[int, Measured]]:
    """Run shards one after the other, decoding images ahead of the networks.

    Yields:
        The number of each shard as soon as it is done, and its counts.
    """
    batches = [
        (number, range(start, min(start + batch_size, shard.stop)))
        for number, shard in shards.items()
        for start in range(shard.start, shard.stop, batch_size)
    ]
    last = dict(batches)
    total, done, warm = sum(len(shard) for shard in shards.values()), 0, False
    measured, digest = Measured(sides={}), hashlib.sha256()
    images = dataset.prefetched([indices for _, indices in batches], workers)
    with closing(images) as ready:
        for (number, indices), batch in zip(batches, ready, strict=True):
            if indices.start == shards[number].start:
                measured = Measured(sides={name: Comparison() for name in sides.exports})
                digest = hashlib.sha256()
            if len(batch.labels):
                if not warm:
                    # The first call of an executor allocates and compiles: not part of its speed.
                    for executor in (sides.original, *sides.exports.values()):
                        executor(batch.images[:1])
                    warm = True
                digest.update(np.ascontiguousarray(batch.images).data)
                digest.update(batch.labels.astype("<i8").tobytes())
                _run_batch(sides, batch, measured, twins=indices.start < sides.twin_images)
            measured.skipped += batch.skipped
            done += len(indices)
            progress("images", done, total)
            if indices == last[number]:
                measured.data_sha256 = digest.hexdigest()
                yield number, measured


def _run_batch(sides: Sides, batch: Batch, measured: Measured, *, twins: bool) -> None:
    labels = batch.labels
    expected, seconds = _timed(sides.original, batch.images)
    right = measured.original.add(expected, labels, seconds / sides.processes)
    choices = expected.argmax(axis=1)
    for position, (name, executor) in enumerate(sides.exports.items()):
        got, seconds = _timed(executor, batch.images)
        same = measured.sides[name].add(expected, got, labels, right, seconds / sides.processes)
        if position == 0:
            others = np.flatnonzero(~same)[: MOST_FLIPPED - len(measured.flipped)]
            measured.flipped += [
                (int(batch.indices[i]), int(choices[i]), int(got[i].argmax())) for i in others
            ]
    if twins:
        for name, twin in sides.twins.items():
            images, agreeing = measured.yardsticks.get(name, (0, 0))
            same_choice = int((choices == twin(batch.images).argmax(axis=1)).sum())
            measured.yardsticks[name] = (images + len(labels), agreeing + same_choice)
    measured.images += len(labels)


def _timed(executor: Executor, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    started = time.perf_counter()
    logits = executor(images)
    return logits, time.perf_counter() - started
