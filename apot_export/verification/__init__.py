"""Proof that an export computes what was trained.

Nothing here shares code with encoding: artifacts are decoded and compared with the PyTorch module.
"""

from __future__ import annotations

from apot_export.verification._report import Divergence, LevelComparison, Report, Side
from apot_export.verification._verify import verify

__all__ = ["Divergence", "LevelComparison", "Report", "Side", "verify"]
