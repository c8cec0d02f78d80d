"""Full-precision networks of the same training codes: no thresholds, 8-bit first and last layer."""

from __future__ import annotations

from collections.abc import Collection

from apot_export.original.families._family import Family
from apot_export.original.quantization import FULL_PRECISION_BITS, METHODS


class FullPrecision(Family):
    """Checkpoints of 32-bit runs."""

    name = "full-precision"
    offered = dict.fromkeys(METHODS, (FULL_PRECISION_BITS,))

    def recognises(self, keys: Collection[str]) -> bool:
        """Tell whether no key is a clipping threshold."""
        return not any("alpha" in key for key in keys)
