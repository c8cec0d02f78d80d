"""Bounds on what float32 rounding can change."""

from __future__ import annotations

UNIT_ROUNDOFF = 2.0**-24
