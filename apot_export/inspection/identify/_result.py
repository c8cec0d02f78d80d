"""What identifying a checkpoint gives."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apot_export.inspection.identify._hypotheses import Hypothesis
from apot_export.network.shown import Shown
from apot_export.original.witness import Statistics


@dataclass(frozen=True, kw_only=True)
class Named:
    """What the names of file and folder say."""

    bits: int | None
    bits_from: str | None
    """"file name" or "folder name"; None where neither says it, or one contradicts itself."""
    method: str
    method_from: str
    """"file name", "folder name", or "default": published names only say `uniform`."""
    grid: str | None
    """"nonzero" for the folder of a run with the non-zero grid."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A hypothesis, and how well the network classifies under it."""

    hypotheses: tuple[Hypothesis, ...]
    """More than one where they are the same function."""
    images: int
    """Images that it was tried on: fewer than the others' where it was dropped."""
    top1: float
    """In [0, 1]."""
    loss: float
    """Mean cross-entropy in nats."""
    dropped: bool
    """Whether it was hopeless before all images were seen."""
    tied: bool
    """Whether it cannot be told apart from the best one; true of the best one itself."""
    named: bool
    """Whether it is what the checkpoint's names say."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Every hypothesis on the same images."""

    dataset: str
    dataset_root: str
    images: int
    """Images that the hypotheses which were not dropped were tried on."""
    available: int
    """Images that the dataset holds."""
    candidates: tuple[Candidate, ...]
    """Best first: by top-1, then loss; dropped ones last."""

    @property
    def tied(self) -> tuple[Candidate, ...]:
        """The best candidate and those that cannot be told apart from it."""
        return tuple(candidate for candidate in self.candidates if candidate.tied)


@dataclass(frozen=True, kw_only=True, repr=False)
class Identification(Shown):
    """What a checkpoint is: what its names, its batch-norms and, if asked, images support."""

    checkpoint: Path
    family: str
    architecture: str
    named: Named
    unknown: tuple[str, ...]
    """What training chose and the file does not hold."""
    power_of_two_layers: Mapping[str, int]
    """Plain layers whose weights are sums of powers of two already, and the bits of their codes."""
    statistics: Statistics
    """What batch-norms support."""
    measurement: Measurement | None

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form; `weights` is the best hypothesis by statistics, or None."""
        # Through JSON itself, which turns tuples into lists and the path into a string.
        form: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        best = self.statistics.best
        return {
            **form,
            "weights": None if best is None else {"method": best.method, "bits": best.bits},
            "decisive": self.statistics.decisive,
        }

    def _facts(self) -> Iterator[tuple[str, object]]:
        best = self.statistics.best
        yield "checkpoint", self.checkpoint
        yield "network", self.architecture
        yield "family", self.family
        yield "batch-norm says", "nothing" if best is None else f"{best.bits}-bit {best.method}"
        yield "decisive", self.statistics.decisive
