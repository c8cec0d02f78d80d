"""Time models against each other: in turns, by the ratios of the same rounds.

Other work on a machine changes absolute times by half, and those of neighbouring turns alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Run = Callable[[], object]
"""Computes one batch."""
Clock = Callable[[], float]
"""Seconds since some moment."""
Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""

BEFORE = "before"
"""Name of the model that was there: what the others are compared with."""
COPY = "copy of before"
"""Name of an identical copy of it. How the two differ is noise."""

FEWEST = 5
"""Rounds that are always run."""
LOOKS = (25, 50, 100, 200)
"""Rounds after which a race may be decided. Looking after every round would sooner or later find
a difference between equal models, too."""
MOST = LOOKS[-1]
_TURN = 0.02
"""Seconds of a turn, at least: a short model runs several times in it."""
_MOST_REPEATS = 1000
_STANDARD_ERRORS = 3.0
_LEAST_NOISE = 0.005
_NORMAL_DEVIATION = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""
_MEDIAN_ERROR = math.sqrt(math.pi / 2)
"""Standard error of a median in units of that of the mean."""


@dataclass(frozen=True)
class Race:
    """What a race measured."""

    seconds: Mapping[str, list[float]]
    """Of a run, by contestant and round."""
    candidates: Sequence[str]
    """Contestants that may replace `BEFORE`."""

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return len(self.seconds[BEFORE])

    def ratio(self, name: str) -> float:
        """Return how many times as fast as `BEFORE` a contestant is: the median over rounds."""
        return median(self._ratios(name))

    @property
    def ratios(self) -> dict[str, float]:
        """Ratios of all contestants but the copy."""
        return {name: self.ratio(name) for name in self.seconds if name != COPY}

    @property
    def milliseconds(self) -> dict[str, float]:
        """Median times of a run of all contestants but the copy."""
        return {name: 1000 * median(own) for name, own in self.seconds.items() if name != COPY}

    @property
    def fastest(self) -> str:
        """Name of the fastest candidate."""
        return max(self.candidates, key=self.ratio)

    @property
    def noise(self) -> float:
        """How far from 1 the fastest candidate's ratio must lie to be more than noise.

        That is three standard errors, and what `BEFORE` and `COPY` differ by beyond chance.
        """
        copies, found = self._ratios(COPY), self._ratios(self.fastest)
        bias = max(0.0, abs(median(copies) - 1) - _STANDARD_ERRORS * _median_error(copies))
        error = max(_median_error(copies), _median_error(found))
        return max(_LEAST_NOISE, bias + _STANDARD_ERRORS * error)

    @property
    def decided(self) -> bool:
        """Whether the fastest candidate is clearly faster, or slower, than `BEFORE`."""
        return abs(self.ratio(self.fastest) - 1) > self.noise

    def _ratios(self, name: str) -> list[float]:
        turns = zip(self.seconds[BEFORE], self.seconds[name], strict=True)
        return [before / own if own > 0 else 1.0 for before, own in turns]


def race(
    runs: Mapping[str, Run],
    candidates: Sequence[str],
    clock: Clock,
    until: float,
    progress: Progress,
) -> Race:
    """Race contestants until it is clear whether a candidate is faster than `BEFORE`.

    Args:
        runs: The contestants, `BEFORE` and `COPY` among them. They take turns, in another order
            every round.
        candidates: Names of those that may replace `BEFORE`.
        clock: Tells the time.
        until: When to stop; `FEWEST` rounds are run all the same, `MOST` at most.
        progress: Told of every round.
    """
    repeats = {}
    for name, run in runs.items():
        _turn(run, 1, clock)  # what is allocated on the first run
        shortest = _TURN / _MOST_REPEATS
        repeats[name] = math.ceil(_TURN / max(_turn(run, 1, clock), shortest))
    found = Race({name: [] for name in runs}, candidates)
    names = list(runs)
    for done in range(MOST):
        if done >= FEWEST and (clock() >= until or (done in LOOKS and found.decided)):
            break
        progress("rounds", done, MOST)
        for name in names:
            found.seconds[name].append(_turn(runs[name], repeats[name], clock))
        names = [*names[1:], names[0]]
    return found


def _turn(run: Run, repeats: int, clock: Clock) -> float:
    started = clock()
    for _ in range(repeats):
        run()
    return (clock() - started) / repeats


def _median_error(found: Sequence[float]) -> float:
    """Return the standard error of a median, estimated so that outliers do not move it."""
    middle = median(found)
    deviation = _NORMAL_DEVIATION * median(abs(ratio / middle - 1) for ratio in found)
    return _MEDIAN_ERROR * deviation / math.sqrt(len(found))
