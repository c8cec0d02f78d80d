"""What tuning measured, in the words that scripts rely on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NATIVE = "native"
"""Name of the native kernels, which run the packed file and have no ONNX model."""


@dataclass(frozen=True, kw_only=True)
class TuningResult:
    """What was measured, and whether a faster model was written."""

    path: Path
    """The export directory with the fastest model."""
    runtime: str
    """Either "onnxruntime" or "openvino"."""
    runtime_version: str
    device: str
    cpu: str
    """Name of the processor."""
    gpu: str | None
    threads: int
    """Of one inference; 0 for the runtime's choice."""
    batch: int
    """Images in every batch."""
    target: str
    """Target of the fastest model, the one that was there left aside."""
    written: bool
    """Whether that model was faster by more than noise, and written; else nothing changed."""
    ratio: float
    """How many times as fast as the model that was there it is."""
    noise: float
    """How far from 1 this ratio must lie to mean anything."""
    ratios: Mapping[str, float]
    """The same ratio of all that raced: "before", targets, and "native" for the native kernels."""
    milliseconds: Mapping[str, float]
    """Median time of a batch, likewise."""
    rounds: int
    """Rounds of the race."""
    integers: int
    """Levels and accumulators that were compared with the oracle's; 0 where nothing was written."""
    verification_dropped: bool
    """Whether the manifest held a verdict, of the model that was replaced."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        return {**asdict(self), "path": str(self.path)}
