"""The search: from the fastest target, group by group, keeping what is faster beyond noise."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from apot_export.errors import ExportError
from apot_export.tuning._groups import Group, Plan
from apot_export.tuning._race import Clock, Duel, Noise, Run, duel, measure_noise, race

Open = Callable[[Plan], Run]
"""Loads the model of a plan into the runtime. Raises `ExportError` where the runtime refuses it."""
Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""

_START_SHARE = 0.2
"""Of the time, at most, to race whole models; likewise to measure the noise."""
_START_ROUNDS = 10


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Another lowering of a group, in the model that was the fastest so far."""

    layers: tuple[str, ...]
    lowering: str
    replaced: str
    """The lowering that these layers had."""
    outcome: Duel | None
    """None where the runtime refused the model."""

    @property
    def won(self) -> bool:
        """Whether it was faster by more than noise, and kept."""
        return self.outcome is not None and self.outcome.won


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the search found."""

    plan: Plan
    noise: Noise
    trials: tuple[Trial, ...]
    """In the order in which they were made."""
    complete: bool
    """Whether nothing was left to try when it stopped; else the time had ended."""
    targets: tuple[str, ...]
    """Whole models that the runtime runs, the fastest first."""


def search(
    groups: Sequence[Group],
    targets: Sequence[str],
    open_model: Open,
    clock: Clock,
    until: float,
    progress: Progress,
) -> Found:
    """Find the fastest lowering of every group.

    Args:
        groups: In the order in which they are tried.
        targets: Of whole models, to start from.
        open_model: Loads a model into the runtime.
        clock: Tells the time.
        until: When to stop.
        progress: Is told of every trial.

    Raises:
        ExportError: The runtime runs none of the targets.
    """
    share = _START_SHARE * (until - clock())
    progress("whole models", 0, 1)
    ranked = _ranked(targets, open_model, clock, clock() + share)
    plan = Plan(target=ranked[0])
    incumbent = open_model(plan)
    progress("noise", 0, 1)
    noise = measure_noise(incumbent, open_model(plan), clock, clock() + share)
    choices = [(group, name) for group in groups for name in group.candidates]
    trials: list[Trial] = []
    number = since_a_win = 0
    # Around and around: what lost beside its old neighbours may win beside new ones.
    while since_a_win < len(choices):
        group, lowering = choices[number % len(choices)]
        progress("lowerings", min(number, len(choices)), len(choices))
        replaced = group.same_as[plan.of(group.layers[0])]
        if replaced != lowering:
            if clock() >= until:
                break
            candidate = plan.changed(group.layers, lowering)
            challenger = _opened(open_model, candidate)
            outcome = None
            if challenger is not None:
                outcome = duel(incumbent, challenger, noise, clock, until)
                if outcome is None:
                    break
            trials.append(
                Trial(layers=group.layers, lowering=lowering, replaced=replaced, outcome=outcome)
            )
            if challenger is not None and trials[-1].won:
                plan, incumbent, since_a_win = candidate, challenger, -1
        number += 1
        since_a_win += 1
    return Found(
        plan=plan,
        noise=noise,
        trials=tuple(trials),
        complete=since_a_win == len(choices),
        targets=ranked,
    )


def compared_with(chosen: str, trials: Sequence[Trial]) -> dict[str, float | None]:
    """Return how many times as fast a model is with each other lowering of a group.

    Args:
        chosen: The lowering that it has.
        trials: Of this group, in the order in which they were made.

    Returns:
        Ratios by lowering, as last measured; None where the runtime refused the model.
    """
    speeds: dict[str, float | None] = {}
    for trial in trials:
        before = speeds.get(trial.replaced) or 1.0
        speeds[trial.replaced] = before
        ratio = None if trial.outcome is None else trial.outcome.ratio
        speeds[trial.lowering] = None if ratio is None else before * ratio
    own = speeds.pop(chosen, None) or 1.0
    return {name: None if speed is None else speed / own for name, speed in speeds.items()}


def _opened(open_model: Open, plan: Plan) -> Run | None:
    """Return a model that was loaded and ran once; None where the runtime refuses it."""
    try:
        run = open_model(plan)
        run()
    except ExportError:
        return None
    return run


def _ranked(
    targets: Sequence[str], open_model: Open, clock: Clock, until: float
) -> tuple[str, ...]:
    """Return the targets whose models the runtime runs, the fastest first."""
    runs = {name: _opened(open_model, Plan(target=name)) for name in targets}
    found = {name: run for name, run in runs.items() if run is not None}
    if not found:
        open_model(Plan(target=targets[0]))()  # says why
    times = race(list(found.values()), clock, until, rounds=_START_ROUNDS)
    medians = dict(zip(found, map(statistics.median, times), strict=True))
    return tuple(sorted(medians, key=medians.__getitem__))
