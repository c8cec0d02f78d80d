"""A verification as one HTML page, for people who decide whether to ship an export."""

from __future__ import annotations

from apot_export.verification.page._page import render_page

__all__ = ["render_page"]
