"""Checkpoint families: how each training code names its tensors and quantizes its layers."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

from apot_export.errors import AmbiguousFamilyError, RecognitionError
from apot_export.original.families._family import Family
from apot_export.original.families._floats import Alq, FullPrecision
from apot_export.original.families._thresholds import (
    ApotV1,
    ApotV2,
    FirstRelease,
    NonZero,
    StepSize,
)

MULTI_BIT, FULL_PRECISION, USUAL = Alq(), FullPrecision(), ApotV2()
FAMILIES: tuple[Family, ...] = (
    *(MULTI_BIT, NonZero(), ApotV1(), FirstRelease(), USUAL, StepSize(), FULL_PRECISION),
)
"""Tried in this order: `nonzero` has what `apot-v1` has and more; the last has no thresholds.
`USUAL` is that of layers whose names tell none."""


def recognise(
    keys: Iterable[str],
    name: str | None = None,
    *,
    bare: bool = False,
    bits: int | None = None,
    method: str | None = None,
) -> Family:
    """Return the family whose key names a state dict has.

    Args:
        keys: Of the state dict.
        name: The family that the user states.
        bare: Whether the file holds nothing but the state dict. Of two families with the same keys
            the first writes epoch and accuracy around it; the other does not.
        bits: Stated bits of weights, which only one of two families may offer.
        method: Stated level set of weights, likewise.

    Raises:
        RecognitionError: Thresholds of no known family, or not those of the stated one; or two
            families fit.
    """
    fitting = candidates(keys)
    if name is not None:
        stated = by_name(name)
        if stated not in fitting:
            raise RecognitionError(
                "The keys are not those of the family.",
                expected=" or ".join(family.name for family in fitting),
                got=f"--family {name}",
                fix="leave out --family, or name the right one",
            )
        return stated
    able = [family for family in fitting if _offers(family, bits, method)] or fitting
    if bare and len(able) > 1:
        raise AmbiguousFamilyError(
            [family.name for family in fitting],
            expected="; or ".join(f"{family.name}: {family.summary}" for family in fitting),
            got="a state dict without epoch or accuracy around it",
            fix="say which code trained it: "
            + " or ".join(f"--family {family.name}" for family in fitting),
        )
    return able[0]


def _offers(family: Family, bits: int | None, method: str | None) -> bool:
    """Return whether a family has stated bits and level set, as far as they are stated."""
    sets = family.offered if method is None else (method,)
    return any(
        level_set in family.offered and (bits is None or bits in family.bit_widths(level_set))
        for level_set in sets
    )


def candidates(keys: Iterable[str]) -> list[Family]:
    """Return the families whose key names a state dict has, the most usual first.

    Raises:
        RecognitionError: Thresholds of no known family.
    """
    names = dict.fromkeys(keys)
    for first in FAMILIES:
        if first.recognises(names.keys()):
            return [first, *(other for other in FAMILIES if other.same_keys_as == first.name)]
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
        if family.name == name.lower():
            return family
    raise RecognitionError(
        "There is no such checkpoint family.",
        expected=", ".join(family.name for family in FAMILIES),
        got=name,
    )


__all__ = [
    "FAMILIES",
    "FULL_PRECISION",
    "MULTI_BIT",
    "USUAL",
    "Family",
    "by_name",
    "candidates",
    "recognise",
]
