"""Checkpoint families: how each training code names its tensors and quantizes its layers."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

from apot_export.errors import RecognitionError
from apot_export.original.families._family import Family
from apot_export.original.families.alq import Alq
from apot_export.original.families.apot_v1 import ApotV1
from apot_export.original.families.apot_v2 import ApotV2
from apot_export.original.families.full_precision import FullPrecision
from apot_export.original.families.nonzero import NonZero

MULTI_BIT, FULL_PRECISION = Alq(), FullPrecision()
FAMILIES: tuple[Family, ...] = (MULTI_BIT, NonZero(), ApotV1(), ApotV2(), FULL_PRECISION)
"""Tried in this order: `nonzero` has what `apot-v1` has and more; the last has no thresholds."""


def recognise(keys: Iterable[str]) -> Family:
    """Return the family whose key names a state dict has.

    Raises:
        RecognitionError: Thresholds of no known family.
    """
    names = dict.fromkeys(keys)
    for family in FAMILIES:
        if family.recognises(names.keys()):
            return family
    raise RecognitionError(
        "The checkpoint has clipping thresholds, but of no known family.",
        expected="act_alpha beside weight_quant.wgt_alpha (apot-v1), or act_alpha beside "
        "weight_alpha (apot-v2)",
        got=f"{', '.join([name for name in names if 'alpha' in name][:4])}, ...: closest to "
        f"{_closest(names)}",
        fix="check that no key was renamed, or name the network's constructor with --model "
        "PACKAGE.MODULE:FACTORY",
    )


def _closest(names: Iterable[str]) -> str:
    """Return the family whose threshold names are most like those of a state dict."""
    found = {".".join(name.split(".")[-2:]) for name in names if "alpha" in name}
    known = {"apot-v1": "weight_quant.wgt_alpha", "apot-v2": "conv1.weight_alpha"}
    likeness = {
        family: max(SequenceMatcher(None, suffix, other).ratio() for other in found)
        for family, suffix in known.items()
    }
    return max(likeness, key=lambda family: likeness[family])


def by_name(name: str) -> Family:
    """Return the family of a name.

    Raises:
        RecognitionError: No family has this name.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    raise RecognitionError(
        "There is no such checkpoint family.",
        expected=", ".join(family.name for family in FAMILIES),
        got=name,
    )


__all__ = ["FAMILIES", "FULL_PRECISION", "MULTI_BIT", "Family", "by_name", "recognise"]
