"""When a difference between two hypotheses is more than chance: three standard errors."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from apot_export.datasets.significance import mcnemar, wilson_interval

STANDARD_ERRORS = 3.0
_SIGNIFICANCE = math.erfc(STANDARD_ERRORS / math.sqrt(2))
"""Two-sided probability beyond three standard errors: 0.0027."""
_FEWEST_DIFFERENCES = 30
"""Fewer say too little of their own spread."""


def wilson(correct: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the interval in which the accuracy lies, at three standard errors."""
    return wilson_interval(int(correct.sum()), len(correct), STANDARD_ERRORS)


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
    return 0 if abs(mean) <= STANDARD_ERRORS * error else int(math.copysign(1, mean))
