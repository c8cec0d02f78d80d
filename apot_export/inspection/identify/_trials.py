"""Hypotheses on images: in stages, the hopeless dropped after each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from apot_export.datasets import Dataset
from apot_export.datasets.significance import mcnemar, wilson_interval
from apot_export.inspection.identify._hypotheses import Hypothesis
from apot_export.original.checkpoint import Checkpoint
from apot_export.original.published import rebuild
from apot_export.original.quantized_layers import QuantizedLayer

Progress = Callable[[str, int, int], None]

_FIRST_STAGE, _STAGE_GROWTH = 40, 5
_STAGE_VALUES = 64_000_000
"""Input values that are in memory at once: 256 MB."""
_BATCH_VALUES = 25 * 3 * 32 * 32
"""Input values of a batch: small, for every activation is compared with up to 64 levels."""
_LARGEST_LOSS = 1e6
"""Cap of one image's loss: a wrong hypothesis can overflow, and its mean must stay a number."""
_STANDARD_ERRORS = 3.0
_SIGNIFICANCE = math.erfc(_STANDARD_ERRORS / math.sqrt(2))
"""Two-sided probability beyond three standard errors: 0.0027."""
_FEWEST_DIFFERENCES = 30
"""Fewer say too little of their own spread."""


@dataclass(kw_only=True, eq=False)
class Trial:
    """A hypothesis under test."""

    hypotheses: tuple[Hypothesis, ...]
    correct: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=np.bool_))
    """[images seen]"""
    losses: NDArray[np.float64] = field(default_factory=lambda: np.empty(0, dtype=np.float64))
    """[images seen], nats"""
    dropped: bool = False

    @property
    def rank(self) -> tuple[int, float, float]:
        """Sort key: more images, then better top-1, then less loss come first."""
        return -len(self.correct), -float(self.correct.mean()), float(self.losses.mean())


def run_stages(
    trials: list[Trial], checkpoint: Checkpoint, images: Dataset, progress: Progress
) -> None:
    """Show all trials the images of every stage, dropping the hopeless after each."""
    most = max(1, _STAGE_VALUES // images.load(0).size)
    # Class folders are in order of class: every stage takes its share of all of them.
    order = np.random.default_rng(0).permutation(len(images))
    remaining, seen = trials, 0
    while seen < len(images):
        until = min(len(images), max(_FIRST_STAGE, seen * _STAGE_GROWTH), seen + most)
        chosen = order[seen:until]
        pixels = torch.from_numpy(np.stack([images.load(int(index)) for index in chosen]))
        labels = torch.from_numpy(images.labels[chosen])
        for number, trial in enumerate(remaining):
            progress(f"{until} images", number, len(remaining))
            _show(trial, rebuild(checkpoint, trial.hypotheses[0].choices()).module, pixels, labels)
        progress(f"{until} images", len(remaining), len(remaining))
        seen = until
        if seen < len(images):
            bar = max(wilson(trial.correct)[0] for trial in remaining)
            for trial in remaining:
                trial.dropped = wilson(trial.correct)[1] < bar
            remaining = [trial for trial in remaining if not trial.dropped]


def _show(trial: Trial, module: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> None:
    size = max(1, _BATCH_VALUES // pixels[0].numel())
    with torch.inference_mode(), _weights_quantized_once(module):
        logits = torch.cat([module(batch) for batch in torch.split(pixels, size)]).double()
        losses = functional.cross_entropy(logits, labels, reduction="none")
        losses = losses.nan_to_num(nan=_LARGEST_LOSS).clamp(max=_LARGEST_LOSS)
        correct = logits.argmax(dim=1) == labels
    trial.correct = np.concatenate([trial.correct, correct.numpy()])
    trial.losses = np.concatenate([trial.losses, losses.numpy()])


@contextmanager
def _weights_quantized_once(module: nn.Module) -> Iterator[None]:
    """Keep quantized weights from batch to batch: in evaluation they do not change."""
    layers = [layer for layer in module.modules() if isinstance(layer, QuantizedLayer)]
    for layer in layers:
        layer.quantized_weight = cache(layer.quantized_weight)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.quantized_weight


def told_apart(best: Trial, other: Trial) -> bool:
    verdicts = (
        sign_test(
            int((best.correct & ~other.correct).sum()), int((other.correct & ~best.correct).sum())
        ),
        mean_test(other.losses - best.losses),
    )
    return 1 in verdicts and -1 not in verdicts


# --- differences beyond three standard errors -----------------------------------------------------


def wilson(correct: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the interval in which the accuracy lies, at three standard errors."""
    return wilson_interval(int(correct.sum()), len(correct), _STANDARD_ERRORS)


def sign_test(wins: int, losses: int) -> int:
    """Return 1 or -1 if wins or losses prevail beyond chance, else 0: exact, two-sided."""
    if mcnemar(wins, losses) >= _SIGNIFICANCE:
        return 0
    return 1 if wins > losses else -1


def mean_test(differences: NDArray[np.float64]) -> int:
    """Return the sign of the mean if it is beyond three standard errors of it, else 0."""
    if len(differences) < _FEWEST_DIFFERENCES:
        return 0
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return 0 if abs(mean) <= _STANDARD_ERRORS * error else int(math.copysign(1, mean))
