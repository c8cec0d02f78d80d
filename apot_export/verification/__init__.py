"""Proof that an export computes what was trained.

Nothing here shares code with encoding: artifacts are decoded and compared with the PyTorch module.
"""

from __future__ import annotations

from apot_export.verification._options import RunOptions
from apot_export.verification._verify import verify
from apot_export.verification.report import Divergence, LevelComparison, Report, Side

__all__ = ["Divergence", "LevelComparison", "Report", "RunOptions", "Side", "verify"]
