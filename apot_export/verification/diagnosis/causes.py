"""The probable cause of a difference: hypotheses, each asked whether it explains all of it.

A hypothesis computes what the export would hold if its fault, and no other, had happened, and fits
where that is what the export holds, everywhere. A fit that corruption could have made by chance is
none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from apot_export.verification.diagnosis.causes_bits import legacy_divisor, wrong_bits
from apot_export.verification.diagnosis.causes_fused import fused_batch_norm
from apot_export.verification.diagnosis.causes_layout import layout
from apot_export.verification.diagnosis.causes_tf32 import tf32
from apot_export.verification.diagnosis.causes_ties import tie_rule
from apot_export.verification.diagnosis.causes_weights import int8_clamp, missing_normalisation
from apot_export.verification.diagnosis.differences import Difference

HYPOTHESES: tuple[tuple[str, Callable[[Difference], str | None]], ...] = (
    ("int8 clamp of first or last layer", int8_clamp),
    ("tie rule", tie_rule),
    ("legacy divisor", legacy_divisor),
    ("missing weight normalisation", missing_normalisation),
    ("fused batch-norm", fused_batch_norm),
    ("TF32", tf32),
    ("layout", layout),
    ("wrong bits", wrong_bits),
)
"""The most specific first: those that say which few values may differ, then those with one form,
then those with a handful, and last those that are tried in dozens of forms."""


def probable_cause(difference: Difference) -> tuple[str | None, str]:
    """Return the most specific cause that fits, None for none, and the evidence."""
    fitting = [
        (name, evidence) for name, fits in HYPOTHESES if (evidence := fits(difference)) is not None
    ]
    found = _what_differs(difference)
    if not fitting:
        return None, f"{found}; none of the {len(HYPOTHESES)} known causes fits"
    (cause, evidence), *others = fitting
    also = "".join(f"; {name} would fit, too" for name, _ in others)
    return cause, f"{found}: {evidence}{also}"


def corroborated_cause(first: Difference, later: Iterable[Difference]) -> tuple[str, str] | None:
    """Return the cause of a later difference where it explains the first one, too.

    A fault of all layers may have changed a single value of the first one, which alone shows
    nothing.
    """
    hypotheses = dict(HYPOTHESES)
    for difference in later:
        cause, _ = probable_cause(difference)
        if cause is None:
            continue
        evidence = hypotheses[cause](dataclasses.replace(first, corroborated=True))
        if evidence is not None:
            also = f"; {difference.count} {difference.kind} of {difference.layer} show the same"
            return cause, f"{_what_differs(first)}: {evidence}{also}"
    return None


def _what_differs(difference: Difference) -> str:
    where = f"in the {difference.artifact}"
    if difference.differs.ndim == 0:
        return (
            difference.says
            if difference.artifact in difference.says
            else (f"{difference.says} {where}")
        )
    says = f" ({difference.says})" if difference.says else ""
    return f"{difference.count} of {difference.differs.size} {difference.kind} differ {where}{says}"
