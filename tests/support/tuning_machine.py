"""A machine whose time is made up: every model takes what a test says, to the digit."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from apot_export.tuning._race import Run


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
