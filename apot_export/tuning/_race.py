"""Timing models against each other: in turns, by the ratios of the same rounds.

What else a machine does changes absolute times by half and the times of neighbouring turns alike.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Run = Callable[[], object]
"""Computes one batch."""
Clock = Callable[[], float]
"""Seconds since some moment."""

FEWEST = 5
"""Rounds without which nothing is said."""
_MOST = 25
_PROMISING = 4
"""How many times as many rounds a challenger gets that seems faster, but may be noise."""
_TURN = 0.02
"""Seconds of a turn, at least: a short model runs several times in it."""
_MOST_REPEATS = 1000
_STANDARD_ERRORS = 3.0
_LEAST_NOISE = 0.005
_NORMAL_DEVIATION = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""
_MEDIAN_ERROR = math.sqrt(math.pi / 2)
"""Standard error of a median in units of that of the mean."""


class Track:
    """Contestants that take turns, each as often within a turn as fills it."""

    def __init__(self, runs: Sequence[Run], clock: Clock) -> None:
        self._runs = runs
        self._clock = clock
        self._repeats = [1] * len(runs)
        for index in range(len(runs)):
            self._turn(index)  # what is allocated on the first run
            shortest = _TURN / _MOST_REPEATS
            self._repeats[index] = math.ceil(_TURN / max(self._turn(index), shortest))
        self._first = 0

    def round(self) -> list[float]:
        """Let everyone take a turn, in another order every round; return seconds of a run."""
        count = len(self._runs)
        seconds = [0.0] * count
        for place in range(count):
            index = (self._first + place) % count
            seconds[index] = self._turn(index)
        self._first = (self._first + 1) % count
        return seconds

    def _turn(self, index: int) -> float:
        started = self._clock()
        for _ in range(self._repeats[index]):
            self._runs[index]()
        return (self._clock() - started) / self._repeats[index]


def race(
    runs: Sequence[Run], clock: Clock, until: float, *, rounds: int = _MOST
) -> list[list[float]]:
    """Return the seconds of every contestant in every round.

    Args:
        runs: The contestants.
        clock: Tells the time.
        until: When to stop; `FEWEST` rounds are run all the same.
        rounds: How many to run in this time.
    """
    track = Track(runs, clock)
    found: list[list[float]] = []
    while len(found) < FEWEST or (len(found) < rounds and clock() < until):
        found.append(track.round())
    return [list(times) for times in zip(*found, strict=True)]


def ratios(baseline: Sequence[float], times: Sequence[float]) -> list[float]:
    """Return by round how many times as fast as the baseline a contestant was."""
    return [b / t if t > 0 else 1.0 for b, t in zip(baseline, times, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How equal models differ: what a ratio must exceed to mean anything."""

    bias: float
    """Distance from 1 of the median ratio of two copies of a model."""
    spread: float
    """Standard deviation of their ratio in one round, as a share of it."""

    def margin(self, found: Sequence[float]) -> float:
        """Return how far from 1 the median of ratios must lie; as many, as scattered as these."""
        spread = max(self.spread, _deviation(found))
        error = _MEDIAN_ERROR * spread / math.sqrt(len(found))
        return max(_LEAST_NOISE, self.bias + _STANDARD_ERRORS * error)


def measure_noise(run: Run, copy: Run, clock: Clock, until: float) -> Noise:
    """Race a model against an identical copy of itself."""
    found = ratios(*race([run, copy], clock, until))
    return Noise(bias=abs(statistics.median(found) - 1), spread=_deviation(found))


@dataclass(frozen=True, kw_only=True)
class Duel:
    """A challenger against the incumbent."""

    ratio: float
    """Median of how many times as fast as the incumbent the challenger was."""
    margin: float
    """How far beyond 1 it must be to count."""

    @property
    def won(self) -> bool:
        """Whether the challenger is faster by more than noise."""
        return self.ratio > 1 + self.margin


def duel(incumbent: Run, challenger: Run, noise: Noise, clock: Clock, until: float) -> Duel | None:
    """Race a challenger against the incumbent, no longer than it has a chance.

    Returns:
        The outcome; None where the time ended before anything could be said.
    """
    track = Track([incumbent, challenger], clock)
    found: list[float] = []
    while clock() < until:
        ours, theirs = track.round()
        found += ratios([ours], [theirs])
        if len(found) >= FEWEST and _decided(found, noise):
            break
    if len(found) < FEWEST:
        return None
    return Duel(ratio=statistics.median(found), margin=noise.margin(found))


def _decided(found: Sequence[float], noise: Noise) -> bool:
    """Return whether more rounds would change nothing, or so many that they are not worth it."""
    median, margin = statistics.median(found), noise.margin(found)
    if len(found) < _MOST:
        return max(found) < 1 and median < 1 - margin
    return median <= 1 or median > 1 + margin or len(found) >= _PROMISING * _MOST


def _deviation(found: Sequence[float]) -> float:
    """Return a standard deviation that outliers do not move, as a share of the median."""
    middle = statistics.median(found)
    return _NORMAL_DEVIATION * statistics.median(abs(ratio / middle - 1) for ratio in found)
