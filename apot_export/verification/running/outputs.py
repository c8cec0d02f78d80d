"""An export beside outputs that the user's own code computed: nothing of ours in between."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from apot_export.datasets import ArrayFile
from apot_export.errors import DatasetError
from apot_export.runtimes.torch_runtime import Executor
from apot_export.verification.report import ReferenceComparison
from apot_export.verification.running.accuracy import agreeing_images, classes_of

_NOISE = 1e-6
"""Relative size of the noise on images: a few units in the last place of float32, as much as
another order of additions changes."""
_SMALLEST = 1e-4
"""Differences up to this share of the outputs' standard deviation are rounding in any network."""
_RARE, _BEST = 0.9, 0.1
"""Quantiles of the differences under noise: what rounding does where it moves levels, and where it
hardly does."""
_NOISY_IMAGES, _MOST_REPEATS = 64, 8
"""Few images run several times with noise, to know it as well as from many."""


def compare_outputs(
    reference: ArrayFile, export: Executor, original: Executor | None, batch_size: int
) -> ReferenceComparison:
    """Run an export on the user's images and compare it with the user's outputs.

    Args:
        reference: Images and logits.
        export: The export of the verdict.
        original: The rebuilt original, which shows on which side a difference arises.
        batch_size: Images per batch.

    Raises:
        DatasetError: All outputs are equal, so nothing can be compared.
    """
    expected = reference.logits
    spread = 0.0 if expected is None else float(expected.std())
    if expected is None or not spread:
        raise DatasetError(
            "The reference's outputs are all equal: they show nothing.",
            where=f"{reference.path}: logits",
            fix="write what the network computes from its images",
        )
    count = len(expected)
    got, noisy = np.empty_like(expected), []
    random = np.random.default_rng(0)
    repeats = min(_MOST_REPEATS, math.ceil(_NOISY_IMAGES / count))
    ours = np.empty_like(expected)
    for start in range(0, count, batch_size):
        rows = slice(start, min(start + batch_size, count))
        images = np.stack([reference.dataset.load(i) for i in range(rows.start, rows.stop)])
        got[rows] = export(images)
        if original is not None:
            ours[rows] = original(images)
        for _ in range(repeats):
            noise = 1 + _NOISE * random.uniform(-1, 1, images.shape)
            moved = export((images * noise).astype(np.float32))
            noisy.append(_differences(moved, got[rows]) / spread)
    rounding = np.quantile(np.concatenate(noisy), (_RARE, _BEST))
    noise_level, least_noise = np.maximum(_SMALLEST, rounding).tolist()
    differences = _differences(got, expected) / spread

    def agreement(outputs: NDArray[np.float64]) -> float:
        return agreeing_images(classes_of(outputs) == classes_of(expected)) / count

    return ReferenceComparison(
        file=reference.path.name,
        sha256=reference.sha256,
        images=count,
        agreement=agreement(got),
        equal=float((differences <= noise_level).mean()),
        noise=noise_level,
        least_difference=float(np.quantile(differences, _BEST)),
        least_noise=least_noise,
        typical_difference=float(np.median(differences)),
        largest_difference=float(differences.max()),
        original_agreement=None if original is None else agreement(ours),
        original_equal=None
        if original is None
        else float((_differences(ours, expected) / spread <= noise_level).mean()),
    )


def _differences(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the largest difference of each image's outputs; NaN counts as infinite."""
    apart = np.abs(one.astype(np.float64) - other).reshape(len(one), -1).max(axis=1)
    return np.nan_to_num(apart, nan=np.inf, posinf=np.inf)
