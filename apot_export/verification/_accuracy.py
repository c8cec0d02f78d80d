"""Running both sides over a dataset: accuracy, agreement, logit differences, throughput."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from apot_export.datasets import Dataset
from apot_export.executors import Executor
from apot_export.significance import mcnemar, wilson_interval
from apot_export.verification._report import Flips, Side

Progress = Callable[[str, int, int], None]
SELF_CHECK_IMAGES = 1000
"""Images on which the original is compared with itself: the yardstick needs no more."""


@dataclass
class _Tally:
    """Counts of one executor."""

    top1: int = 0
    top5: int = 0
    seconds: float = 0.0

    def add(
        self, logits: NDArray[np.float32], labels: NDArray[np.int64], seconds: float
    ) -> NDArray[np.bool_]:
        """Count a batch; return which images are right."""
        ranked = np.argsort(-logits, axis=1, kind="stable")[:, :5]
        hits = ranked == labels[:, None]
        self.top1 += int(hits[:, 0].sum())
        self.top5 += int(hits.any(axis=1).sum())
        self.seconds += seconds
        return np.asarray(hits[:, 0])

    def side(self, images: int) -> Side:
        return Side(
            top1=self.top1 / images,
            top1_interval=wilson_interval(self.top1, images),
            top5=self.top5 / images,
            images_per_second=images / self.seconds if self.seconds else 0.0,
        )


@dataclass
class Measured:
    """What one pass over a dataset found."""

    images: int = 0
    original: _Tally = field(default_factory=_Tally)
    export: _Tally = field(default_factory=_Tally)
    original_only: int = 0
    """Images that the original alone gets right."""
    export_only: int = 0
    agreeing: int = 0
    self_images: int = 0
    self_agreeing: int = 0
    largest_difference: float = 0.0
    difference_sum: float = 0.0
    logits: int = 0

    @property
    def agreement(self) -> float:
        """Fraction of images for which both sides name the same class."""
        return self.agreeing / self.images

    def flips(self) -> Flips:
        """Return the images that one side alone gets right, and what chance says of them."""
        return Flips(
            original_only=self.original_only,
            export_only=self.export_only,
            probability=mcnemar(self.original_only, self.export_only),
        )

    @property
    def self_agreement(self) -> float:
        """The same between the original and itself with another convolution algorithm."""
        return self.self_agreeing / self.self_images


def measure(
    dataset: Dataset,
    batch_size: int,
    original: Executor,
    twin: Executor,
    export: Executor,
    progress: Progress,
) -> Measured:
    """Run the original, its twin (another convolution algorithm) and the export on all images."""
    measured = Measured()
    for images, labels in dataset.batches(batch_size):
        if measured.images == 0:
            # The first call of an executor allocates and compiles: not part of its speed.
            original(images[:1])
            export(images[:1])
        expected, seconds = _timed(original, images)
        right = measured.original.add(expected, labels, seconds)
        got, seconds = _timed(export, images)
        exported_right = measured.export.add(got, labels, seconds)
        measured.original_only += int((right & ~exported_right).sum())
        measured.export_only += int((exported_right & ~right).sum())
        choices = expected.argmax(axis=1)
        measured.agreeing += int((choices == got.argmax(axis=1)).sum())
        difference = np.abs(expected.astype(np.float64) - got)
        measured.largest_difference = max(measured.largest_difference, float(difference.max()))
        measured.difference_sum += float(difference.sum())
        measured.logits += difference.size
        if measured.self_images < SELF_CHECK_IMAGES:
            measured.self_agreeing += int((choices == twin(images).argmax(axis=1)).sum())
            measured.self_images += len(labels)
        measured.images += len(labels)
        progress("images", measured.images, len(dataset))
    return measured


def _timed(executor: Executor, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    started = time.perf_counter()
    logits = executor(images)
    return logits, time.perf_counter() - started
