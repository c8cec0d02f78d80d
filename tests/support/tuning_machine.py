"""A machine whose time is made up: every model takes what a test says, to the digit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from apot_export.tuning._groups import Group, Plan
from apot_export.tuning._race import Run
from apot_export.tuning._search import Found, search

LOWERINGS = ("cpu", "portable")


@dataclass(kw_only=True)
class Machine:
    """Tells the time, which passes only where a model runs (or loads)."""

    jitter: float = 0.0
    """Standard deviation of a run's time, as a share of it."""
    loading: float = 0.0
    """Seconds to load a model."""
    now: float = 100.0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def clock(self) -> float:
        return self.now

    def takes(self, seconds: float) -> Run:
        self.now += self.loading

        def run() -> None:
            factor = 1 + self.jitter * float(self.rng.normal()) if self.jitter else 1.0
            self.now += seconds * factor

        return run


def group(*layers: str, lowerings: Sequence[str] = LOWERINGS, operations: int = 1) -> Group:
    return Group(
        layers=layers,
        kind="made up",
        same_as={name: name for name in lowerings},
        operations=operations,
    )


@dataclass(kw_only=True)
class Bench:
    """Searches over made-up layers, and remembers which models were loaded."""

    machine: Machine
    seconds: Callable[[Plan], float]
    groups: Sequence[Group]
    targets: Sequence[str] = LOWERINGS
    opened: list[Plan] = field(default_factory=list)
    told: list[tuple[str, int, int]] = field(default_factory=list)
    time: float = 1e6

    def open(self, plan: Plan) -> Run:
        self.opened.append(plan)
        return self.machine.takes(self.seconds(plan))

    def search(self) -> Found:
        return search(
            self.groups,
            self.targets,
            self.open,
            self.machine.clock,
            self.machine.now + self.time,
            lambda *told: self.told.append(told),
        )


def sum_of(costs: Mapping[str, Mapping[str, float]]) -> Callable[[Plan], float]:
    """Return the time of a model: the sum of what its layers cost, by layer and lowering."""
    return lambda plan: sum(own[plan.of(layer)] for layer, own in costs.items())
