"""Which images stand for a dataset: evenly spread ones, or a stratified random sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def evenly_spread(count: int, limit: int) -> NDArray[np.int64]:
    """Return `limit` positions from the first of `count` to the last, ascending: int64."""
    return np.linspace(0, count - 1, limit).round().astype(np.int64)


def stratified(labels: NDArray[np.int64], limit: int, seed: int) -> NDArray[np.int64]:
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
