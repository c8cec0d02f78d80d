"""Measure which target of an export runs fastest on this machine, and write its model."""

from __future__ import annotations

from apot_export.tuning._tune import TuningResult, tune

__all__ = ["TuningResult", "tune"]
