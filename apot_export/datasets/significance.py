"""Accuracies of few images: intervals, and whether two of them differ beyond chance."""

from __future__ import annotations

import math

TWO_SIDED_95 = 1.959964
"""Standard errors of a two-sided 95 % interval."""


def wilson_interval(
    hits: float, count: int, standard_errors: float = TWO_SIDED_95
) -> tuple[float, float]:
    """Return the interval in which a rate lies of which `hits` of `count` trials were seen.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    >>> low, high = wilson_interval(90, 100)
    >>> round(low, 4), round(high, 4)
    (0.8256, 0.9448)
    """
    rate, z = hits / count, standard_errors
    centre = rate + z * z / (2 * count)
    reach = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    low, high = ((centre + sign * reach) / (1 + z * z / count) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided probability of paired flips as uneven as these by chance.

    Args:
        only_first: Images that the first side alone gets right.
        only_second: Images that the second side alone gets right.

    >>> mcnemar(0, 0), mcnemar(5, 5), round(mcnemar(1, 9), 4)
    (1.0, 1.0, 0.0215)
    """
    count = only_first + only_second
    tail = sum(math.comb(count, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**count)
