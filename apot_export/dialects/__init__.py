"""Checkpoint families: how each names its tensors and quantizes its layers."""

from __future__ import annotations

from collections.abc import Iterable

from apot_export.dialects._protocol import Dialect
from apot_export.dialects.alq import Alq
from apot_export.dialects.apot_v1 import ApotV1
from apot_export.dialects.apot_v2 import ApotV2
from apot_export.dialects.full_precision import FullPrecision
from apot_export.dialects.nonzero import NonZero
from apot_export.errors import RecognitionError

DIALECTS: tuple[Dialect, ...] = (Alq(), NonZero(), ApotV1(), ApotV2(), FullPrecision())
"""Tried in this order: `nonzero` has what `apot-v1` has and more; the last has no thresholds."""


def recognise(keys: Iterable[str]) -> Dialect:
    """Return the family whose key names a state dict has.

    Raises:
        RecognitionError: Thresholds of no known family.
    """
    names = list(keys)
    for dialect in DIALECTS:
        if dialect.recognises(names):
            return dialect
    raise RecognitionError(
        "The checkpoint has clipping thresholds, but of no known family.",
        expected="act_alpha beside weight_quant.wgt_alpha, or act_alpha beside weight_alpha",
        got=", ".join([name for name in names if "alpha" in name][:4]),
    )


def by_name(name: str) -> Dialect:
    """Return the family of a name.

    Raises:
        RecognitionError: No family has this name.
    """
    for dialect in DIALECTS:
        if dialect.name == name:
            return dialect
    raise RecognitionError(
        "There is no such checkpoint family.",
        expected=", ".join(dialect.name for dialect in DIALECTS),
        got=name,
    )


__all__ = ["DIALECTS", "Dialect", "by_name", "recognise"]
