"""Measuring, on the machine at hand, which lowering of each layer is the fastest."""

from __future__ import annotations

from apot_export.tuning._result import GroupResult, TuningResult
from apot_export.tuning._tune import tune

__all__ = ["GroupResult", "TuningResult", "tune"]
