"""What was found of a checkpoint or of exports as one HTML page, for readers without a terminal."""

from __future__ import annotations

from apot_export.inspection.page._comparison import render_comparison
from apot_export.inspection.page._page import render_page

__all__ = ["render_comparison", "render_page"]
