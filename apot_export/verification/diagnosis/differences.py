"""What can differ between an original and its export, with all that a cause is sought in."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from apot_export.network.layers import ActivationQuantizer
from apot_export.original.quantized_layers import QuantConv2d
from apot_export.verification.proof.forced import LevelRange
from apot_export.verification.proof.rounding import Bounded, bounded_layer, bounded_module

PACKED = "packed file"
MODEL = "ONNX model"
BOTH = f"{PACKED} and the {MODEL}"

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerRun:
    """A weighted layer, and the batch-norm after it, on the input that the export gave it."""

    module: nn.Conv2d | nn.Linear
    norm: nn.Module | None
    operand: Bounded
    sums: Array | None
    """What the export summed up before scaling; None where it has no such value."""
    result: Array | None
    """What the export has after the batch-norm, or after the layer where there is none."""

    def first(self, count: int) -> LayerRun:
        """Return the run of the first images alone."""
        operand = Bounded(self.operand.value[:count], self.operand.bound[:count])
        return dataclasses.replace(self, operand=operand)

    def computed(self, module: nn.Conv2d | nn.Linear | None = None) -> Bounded:
        """Return what the layer, or another one in its place, makes of the input."""
        made = bounded_layer(module or self.module, self.operand.value, self.operand.bound)
        return made if self.norm is None else bounded_module(self.norm, made)


@dataclass(frozen=True, kw_only=True, eq=False)
class Difference:
    """The place at which an export is not the original."""

    layer: str
    kind: str
    """As in `Divergence`."""
    artifact: str
    """`PACKED`, `MODEL`, or `BOTH` where they are alike."""
    original: Array
    export: Array
    """Of the original's shape, unless the whole differs."""
    differs: NDArray[np.bool_] = field(default_factory=lambda: np.ones((), dtype=np.bool_))
    """Of that shape; without axes where the whole differs."""
    says: str = ""
    """What differs, where numbers alone do not say it."""
    corroborated: bool = False
    """Whether a later layer has shown a cause beyond doubt: then fewer values suffice here."""

    @property
    def count(self) -> int:
        """Values that differ."""
        return int(self.differs.sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightDifference(Difference):
    """Other weights: float32, or integers on both sides where a model decodes integers."""

    run: LayerRun

    @property
    def in_levels(self) -> bool:
        """Whether both sides are integer levels."""
        return self.export.dtype.kind in "iu"


@dataclass(frozen=True, kw_only=True, eq=False)
class ConstantDifference(Difference):
    """Another threshold or step; NaN stands for none."""

    module: nn.Module
    quantizer: ActivationQuantizer | None
    """What the packed file says."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelDifference(Difference):
    """Other activation levels, made of the same input."""

    module: QuantConv2d
    operand: Bounded
    around: LevelRange
    """The original's levels, and what rounding can make of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ValueDifference(Difference):
    """Other sums or float values, made of the same input."""

    allowed: NDArray[np.float64]
    """How far apart rounding may take both sides."""
    run: LayerRun | None
    """The layer that the value comes from; None where it comes from none."""


def within(computed: Bounded, export: Array | None) -> bool:
    """Tell whether an export's value is a computed one up to float32 rounding on both sides."""
    if export is None or export.shape != tuple(computed.value.shape):
        return False
    return not outside(computed, export).any()


def outside(computed: Bounded, export: Array) -> NDArray[np.bool_]:
    """Tell where both sides are further apart than float32 rounding takes them."""
    difference = (computed.value.double() - torch.from_numpy(export.astype(np.float64))).abs()
    return np.asarray(~(difference <= 2 * computed.bound.double()))
