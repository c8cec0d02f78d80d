"""Run all sides over shards of a dataset, and keep finished shards on disk for --resume."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts.directory import UNFINISHED
from apot_export.datasets import Batch, Dataset
from apot_export.errors import ExportError
from apot_export.network.comparison import first_place
from apot_export.runtimes.torch_runtime import Executor
from apot_export.verification._options import Progress
from apot_export.verification.running.accuracy import (
    MOST_FLIPPED,
    Comparison,
    Measured,
    agreeing_images,
    classes_of,
)

_MOST_SHARDS = 256
_NAMED_DIGITS = 12
"""Digits of a run's key that its files are named after."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Everything that a batch is run on."""

    original: Callable[[Batch], NDArray[Any]]
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
                    sides.original(batch.first())
                    for executor in sides.exports.values():
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
    expected, seconds = _timed(sides.original, batch)
    right = measured.original.add(expected, labels, seconds / sides.processes)
    classes = classes_of(expected)
    for position, (name, executor) in enumerate(sides.exports.items()):
        got, seconds = _timed(executor, batch.images)
        same = measured.sides[name].add(expected, got, labels, right, seconds / sides.processes)
        if position == 0:
            measured.flipped += _flipped(batch, classes, classes_of(got), same)
            del measured.flipped[MOST_FLIPPED:]
    if twins:
        for name, twin in sides.twins.items():
            agreeing = agreeing_images(classes == classes_of(twin(batch.images)))
            measured.add_yardstick(name, len(labels), agreeing)
    measured.images += len(labels)


def _flipped(
    batch: Batch, original: NDArray[np.int64], export: NDArray[np.int64], same: NDArray[np.bool_]
) -> Iterator[tuple[int, int, int]]:
    """Yield the images whose classes differ, with both classes at the first place that does."""
    for number in np.flatnonzero(~same.reshape(len(same), -1).all(axis=1)).tolist():
        place = (number, *first_place(~same[number]))
        yield int(batch.indices[number]), int(original[place]), int(export[place])


_Input = TypeVar("_Input")


def _timed(run: Callable[[_Input], NDArray[Any]], given: _Input) -> tuple[NDArray[Any], float]:
    started = time.perf_counter()
    logits = run(given)
    return logits, time.perf_counter() - started


class Unfinished:
    """The files of a run in an export directory: a line of JSON per finished shard.

    Every process of every kind of run has a file of its own. Where the directory cannot be written,
    the run goes on and cannot be resumed.
    """

    def __init__(self, directory: Path, rank: int, facts: Mapping[str, Any]) -> None:
        """Name the files after a run's facts: everything that its counts depend on, as JSON."""
        self._key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self._directory = directory
        self._path = directory / f"{UNFINISHED}{self._key[:_NAMED_DIGITS]}.{rank}.jsonl"
        self.kept = True
        """Whether finished shards reach the disk."""

    def read(self) -> dict[int, Measured]:
        """Return the finished shards of all processes, by number.

        Raises:
            ExportError: There are only those of runs with other settings.
        """
        found: dict[int, Measured] = {}
        for path in self._files():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                # A process may have been killed in the middle of its last line.
                with suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    if entry["key"] == self._key:
                        found[int(entry["shard"])] = Measured.of_json(entry["counts"])
        others = sorted(self._directory.glob(f"{UNFINISHED}*.jsonl"))
        if others and not self._files():
            raise ExportError(
                "The unfinished run was another one: other files, images or settings.",
                where=", ".join(str(path) for path in others),
                expected="the same command line, export, images and versions",
                fix="repeat that command with --resume, or leave --resume out to start anew",
            )
        return found

    def clear(self) -> None:
        """Forget finished shards: those of an abandoned run, or of this one when it is done."""
        for path in self._files():
            with suppress(OSError):
                path.unlink()

    def add(self, shard: int, counts: Measured) -> None:
        """Write down a finished shard."""
        line = json.dumps({"key": self._key, "shard": shard, "counts": counts.to_json()})
        try:
            with self._path.open("a", encoding="utf-8") as file:
                # The line before this one may have been cut off.
                file.write(f"\n{line}\n")
        except OSError:
            self.kept = False

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob(f"{UNFINISHED}{self._key[:_NAMED_DIGITS]}.*.jsonl"))
