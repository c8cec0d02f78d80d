"""Counts of a verification: of one shard of the images, or of all of them.

A run is cut into shards that do not depend on how many processes share the work; counts of shards
are added in the order of the images, so one process and several, and an interrupted run that was
resumed, end with the same numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.datasets import UNLABELLED
from apot_export.datasets.significance import mcnemar, wilson_interval
from apot_export.verification.report import DIFFERENCE_EDGES, ComparedSide, Flips, Side, Yardstick

MOST_FLIPPED = 24
"""Images with other predictions that a report keeps."""
_TOP = 5


def classes_of(outputs: NDArray[Any]) -> NDArray[np.int64]:
    """Return the class that each output names: [images, channels, ...] to int64 [images, ...].

    The largest channel is the class; a single channel is a yes where it is above 0.

    >>> classes_of(np.array([[1.0, 3.0], [5.0, 2.0]])), classes_of(np.ones((1, 1)))
    (array([1, 0]), array([1]))
    """
    if outputs.shape[1] == 1:
        return (outputs[:, 0] > 0).astype(np.int64)
    return np.asarray(outputs.argmax(axis=1))


def agreeing_images(same: NDArray[np.bool_]) -> float:
    """Return how many images agree; of maps, [images, ...], each by its share of positions."""
    positions = same[0].size
    total = int(same.sum())
    return total if positions == 1 else total / positions


@dataclass(kw_only=True)
class Tally:
    """Counts of one executor."""

    top1: int = 0
    top5: int = 0
    seconds: float = 0.0
    """Time that all processes together took, divided by their number."""

    def add(
        self, logits: NDArray[np.float32], labels: NDArray[np.int64], seconds: float
    ) -> NDArray[np.bool_]:
        """Count a batch; return which images are right, none where they have no labels."""
        self.seconds += seconds
        if (labels == UNLABELLED).any():
            return np.zeros(len(labels), dtype=bool)
        ranked = np.argsort(-logits, axis=1, kind="stable")[:, :_TOP]
        hits = ranked == labels[:, None]
        self.top1 += int(hits[:, 0].sum())
        self.top5 += int(hits.any(axis=1).sum())
        return np.asarray(hits[:, 0])

    def side(self, images: int, *, labelled: bool) -> Side:
        """Return the rates among so many images."""
        return Side(
            top1=self.top1 / images if labelled else None,
            top1_hits=self.top1 if labelled else None,
            top1_interval=wilson_interval(self.top1, images) if labelled else None,
            top5=self.top5 / images if labelled else None,
            top5_hits=self.top5 if labelled else None,
            images_per_second=images / self.seconds if self.seconds else 0.0,
        )


@dataclass(kw_only=True)
class Comparison:
    """Counts of one executor beside the original."""

    tally: Tally = field(default_factory=Tally)
    original_only: int = 0
    """Images that the original alone gets right."""
    export_only: int = 0
    agreeing: float = 0
    """See `agreeing_images`."""
    largest: float = 0.0
    """Largest difference of a logit."""
    difference_sum: float = 0.0
    logits: int = 0
    differences: list[int] = field(default_factory=lambda: [0] * (len(DIFFERENCE_EDGES) + 1))

    def add(
        self,
        expected: NDArray[np.float32],
        got: NDArray[np.float32],
        labels: NDArray[np.int64],
        right: NDArray[np.bool_],
        seconds: float,
    ) -> NDArray[np.bool_]:
        """Count a batch; return where both name the same class, [images, ...].

        Args:
            expected: The original's logits, [images, classes, ...].
            got: The executor's.
            labels: [images]
            right: Images that the original gets right.
            seconds: Time that the executor took.
        """
        also_right = self.tally.add(got, labels, seconds)
        self.original_only += int((right & ~also_right).sum())
        self.export_only += int((also_right & ~right).sum())
        same = classes_of(expected) == classes_of(got)
        self.agreeing += agreeing_images(same)
        # NaN and infinity count as the furthest distance.
        furthest = float(np.finfo(np.float32).max)
        difference = np.nan_to_num(
            np.abs(expected.astype(np.float64) - got), nan=furthest, posinf=furthest
        )
        self.largest = max(self.largest, float(difference.max()))
        self.difference_sum += float(difference.sum())
        self.logits += difference.size
        bins = np.searchsorted(DIFFERENCE_EDGES, difference.reshape(-1), side="right")
        counts = np.bincount(bins, minlength=len(self.differences)).tolist()
        self.differences = [a + b for a, b in zip(self.differences, counts, strict=True)]
        return np.asarray(same)

    def compared(self, name: str, images: int, *, labelled: bool) -> ComparedSide:
        """Return the rates among so many images."""
        flips = Flips(
            original_only=self.original_only,
            export_only=self.export_only,
            probability=mcnemar(self.original_only, self.export_only),
        )
        return ComparedSide(
            name=name,
            side=self.tally.side(images, labelled=labelled),
            agreement=self.agreeing / images,
            flips=flips if labelled else None,
            largest_logit_difference=self.largest,
            mean_logit_difference=self.difference_sum / self.logits,
            logit_differences=tuple(self.differences),
        )


@dataclass(kw_only=True)
class Measured:
    """What was found in a shard, or in all of them."""

    images: int = 0
    data_sha256: str = ""
    """Of a shard's preprocessed images and labels; of the shards' digests."""
    original: Tally = field(default_factory=Tally)
    sides: dict[str, Comparison]
    yardsticks: dict[str, Yardstick] = field(default_factory=dict)
    """The original against itself, by what is different."""
    flipped: list[tuple[int, int, int]] = field(default_factory=list)
    """(index, the original's class, the export's) of the first images with other predictions."""
    skipped: list[tuple[int, str]] = field(default_factory=list)
    """(index, reason) of images that could not be read."""

    def compared(self, *, labelled: bool) -> tuple[ComparedSide, ...]:
        """Return every side's rates."""
        return tuple(
            side.compared(name, self.images, labelled=labelled) for name, side in self.sides.items()
        )

    def add_yardstick(self, name: str, images: int, agreeing: float) -> None:
        """Count images that the original was run on otherwise."""
        before = self.yardsticks.get(name, Yardstick(name=name, images=0, agreeing=0))
        self.yardsticks[name] = Yardstick(
            name=name, images=before.images + images, agreeing=before.agreeing + agreeing
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `of_json` reads: floats survive to the last bit."""
        return dataclasses.asdict(self)

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Measured:
        """Read the counts of a shard.

        Raises:
            KeyError, TypeError, ValueError: They are not what `to_json` wrote.
        """
        return cls(
            images=int(found["images"]),
            data_sha256=str(found["data_sha256"]),
            original=Tally(**found["original"]),
            sides={
                name: Comparison(**{**side, "tally": Tally(**side["tally"])})
                for name, side in found["sides"].items()
            },
            yardsticks={name: Yardstick(**one) for name, one in found["yardsticks"].items()},
            flipped=[(int(i), int(a), int(b)) for i, a, b in found["flipped"]],
            skipped=[(int(index), str(reason)) for index, reason in found["skipped"]],
        )


def merge(shards: Sequence[Measured]) -> Measured:
    """Add the counts of shards, which are given in the order of their images."""
    total = Measured(sides={name: Comparison() for name in shards[0].sides})
    digest = hashlib.sha256()
    for shard in shards:
        total.images += shard.images
        digest.update(bytes.fromhex(shard.data_sha256))
        _add_counts(total.original, shard.original)
        for name, side in shard.sides.items():
            _add_counts(total.sides[name], side)
        for name, yardstick in shard.yardsticks.items():
            total.add_yardstick(name, yardstick.images, yardstick.agreeing)
        total.flipped += shard.flipped
        total.skipped += shard.skipped
    del total.flipped[MOST_FLIPPED:]
    total.data_sha256 = digest.hexdigest()
    return total


def _add_counts(total: Any, shard: Any) -> None:
    """Add each field of a `Tally` or `Comparison` to the total's; the largest one stays largest."""
    for name, count in vars(shard).items():
        before = getattr(total, name)
        if isinstance(count, Tally):
            _add_counts(before, count)
        elif isinstance(count, list):
            setattr(total, name, [a + b for a, b in zip(before, count, strict=True)])
        else:
            setattr(total, name, max(before, count) if name == "largest" else before + count)
