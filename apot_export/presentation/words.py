"""Words for what files name in short."""

from __future__ import annotations

LEVELS = {"apot": "additive powers of two", "pot": "powers of two", "uniform": "uniform"}
SOURCES = {"option": "as given", "assumption": "assumed"}
"""Sources of a part of the quantization that read otherwise than their names."""
