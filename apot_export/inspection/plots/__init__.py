"""Drawings of an inspection for papers, by matplotlib: one column of two wide."""

from __future__ import annotations

from apot_export.inspection.plots._figures import LevelRow, level_rows, write_figure
from apot_export.inspection.plots._plots import write_plots

__all__ = ["LevelRow", "level_rows", "write_figure", "write_plots"]
