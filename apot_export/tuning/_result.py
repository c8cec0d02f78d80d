"""What tuning found, in the words that scripts rely on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apot_export.runtimes.deployment import Place


@dataclass(frozen=True, kw_only=True)
class GroupResult:
    """Layers of one kind, and what was measured for them."""

    layers: tuple[str, ...]
    kind: str
    candidates: tuple[str, ...]
    """Lowerings that differ for these layers: a single one where there is nothing to choose."""
    lowering: str
    """Of the fastest model."""
    others: Mapping[str, float | None]
    """How many times as fast the model is with each other lowering of these layers that was tried;
    None where the runtime refused it."""


@dataclass(frozen=True, kw_only=True)
class TuningResult:
    """What was measured, and whether it was written."""

    path: Path
    """The export directory with the fastest model."""
    place: Place
    version: str
    """Of the runtime."""
    cpu: str
    gpu: str | None
    written: bool
    """Whether a faster model was found and written; else the model that was there was kept."""
    ratio: float
    """How many times as fast as the model that was there the fastest one is."""
    noise: float
    """How far from 1 this ratio must lie to mean anything."""
    ratios: Mapping[str, float]
    """The same of every model of the last race: "before", "tuned", and whole targets."""
    milliseconds: Mapping[str, float]
    """Median time of a batch, likewise."""
    groups: tuple[GroupResult, ...]
    trials: int
    """Models that were timed against the fastest so far."""
    complete: bool
    """Whether nothing was left to try; else the time had ended."""
    integers: int
    """Levels and accumulators that were compared with the oracle's; 0 where nothing was written."""
    verification_dropped: bool
    """Whether the manifest held a verdict, of the old model."""
    seconds: float

    @property
    def lowerings(self) -> dict[str, str]:
        """Lowering of every weighted layer."""
        return {layer: group.lowering for group in self.groups for layer in group.layers}

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        return {
            "path": str(self.path),
            "runtime": self.place.runtime,
            "runtime_version": self.version,
            "device": self.place.device,
            "cpu": self.cpu,
            "gpu": self.gpu,
            "threads": self.place.threads,
            "batch": self.place.batch,
            "written": self.written,
            "ratio": self.ratio,
            "noise": self.noise,
            "ratios": dict(self.ratios),
            "milliseconds": dict(self.milliseconds),
            "lowerings": self.lowerings,
            "groups": [
                {
                    "layers": list(group.layers),
                    "kind": group.kind,
                    "candidates": list(group.candidates),
                    "lowering": group.lowering,
                    "others": dict(group.others),
                }
                for group in self.groups
            ],
            "trials": self.trials,
            "complete": self.complete,
            "integers": self.integers,
            "verification_dropped": self.verification_dropped,
            "seconds": self.seconds,
        }
