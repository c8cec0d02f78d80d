"""What was found of a checkpoint or an export as one HTML page, for readers without a terminal."""

from __future__ import annotations

from apot_export.inspection.page._page import render_page

__all__ = ["render_page"]
