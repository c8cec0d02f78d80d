"""The criteria of PASS, one sentence for each that does not hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

from apot_export.datasets.significance import wilson_interval
from apot_export.network.comparison import AccumulatorComparison
from apot_export.original.record import Record
from apot_export.verification.report import (
    BackendComparison,
    ComparedSide,
    LevelComparison,
    RecordComparison,
    Side,
    WeightCertificate,
    Yardstick,
)

_TWO_SIDED_999 = 3.290527
"""Standard errors of a two-sided 99.9 % interval."""
_CLEARLY_WORSE = 0.03
"""How far an accuracy must lie below a record, which its interval must not contain, to fail."""


def proof_failures(
    weights: WeightCertificate, levels: LevelComparison, accumulators: AccumulatorComparison
) -> list[str]:
    """Judge what must be exact, or explained by float rounding."""
    failures = []
    if weights.exact != weights.layers or weights.offenders:
        failures.append(
            f"{weights.layers - weights.exact} of {weights.layers} layers have other weights "
            f"than the original: {'; '.join(weights.offenders)}"
        )
    if levels.unexplained or levels.values_outside:
        failures.append(
            f"{levels.unexplained} levels and {levels.values_outside} values differ by more than "
            f"float rounding: {'; '.join(levels.offenders)}"
        )
    if accumulators.mismatches or accumulators.values_outside:
        failures.append(
            f"{accumulators.mismatches} integers and {accumulators.values_outside} values differ "
            f"from the oracle's: {'; '.join(accumulators.offenders)}"
        )
    return failures


def agreement_failures(
    images: int, sides: Sequence[ComparedSide], yardstick: Yardstick
) -> list[str]:
    """Judge how often each side names the original's class, beside how often the original does."""
    noise = _sampling_noise(images, yardstick)
    return [
        f"{'the export' if position == 0 else side.name} agrees with the original on "
        f"{side.agreement:.2%} of the images, the original with itself on {yardstick.agreement:.2%}"
        for position, side in enumerate(sides)
        if yardstick.agreement - side.agreement > noise
    ]


def compare_record(record: Record, side: Side, images: int, *, ignored: bool) -> RecordComparison:
    """Judge an accuracy that was measured on images of the network's own dataset by the record.

    The record is of the whole test set, or of another set or epoch: training codes differ. So an
    accuracy that chance does not explain is a warning, and only one that is clearly worse fails.
    """
    low, high = wilson_interval(side.top1_hits, images, _TWO_SIDED_999)
    verdict = "ok" if low <= record.value <= high else "warning"
    if verdict == "warning" and record.value - side.top1 > _CLEARLY_WORSE:
        verdict = "ignored" if ignored else "FAIL"
    return RecordComparison(
        key=record.key,
        recorded=record.value,
        measured=side.top1,
        interval=(low, high),
        verdict=verdict,
    )


def record_failures(found: RecordComparison | None) -> list[str]:
    """Return why a clearly missed record fails."""
    if found is None or found.verdict != "FAIL":
        return []
    return [
        f"the export is right on {found.measured:.2%} of the images, but the checkpoint records "
        f"{found.recorded:.2%} ({found.key}). Either the network was read with other bits, another "
        "level set or other first and last layers than it was trained with (convert with the right "
        "--bits and --method; inspect identify ranks them), or the record is of other images, "
        "another preprocessing or another epoch: then --ignore-record"
    ]


def record_warnings(found: RecordComparison | None) -> list[str]:
    """Return what may be wrong where a record is missed, but not clearly, or ignored."""
    if found is None or found.verdict not in ("warning", "ignored"):
        return []
    side = "below" if found.measured < found.recorded else "above"
    return [
        f"the measured accuracy is further {side} the recorded {found.recorded:.2%} than chance "
        "explains. The record may be of other images (training codes also record the accuracy on "
        "the training set or on a subset), of another epoch or preprocessing; or bits, level set "
        "or first and last layers are not those of the training"
    ]


def backend_failures(found: BackendComparison | None) -> list[str]:
    """Judge the integer network, whose bits are the same everywhere."""
    if found is None:
        return []
    return [
        f"the integer network's logits on {name} differ from those on {found.names[0]} for {count} "
        f"images, first at {found.first_difference[name]}"
        for name, count in found.differing.items()
        if count
    ]


def _sampling_noise(images: int, yardstick: Yardstick) -> float:
    """Return how far two agreements may differ by chance: four standard errors and an image."""
    fewer = min(images, yardstick.images)
    rate = (yardstick.agreeing + 1) / (yardstick.images + 2)
    return 4 * math.sqrt(2 * rate * (1 - rate) / fewer) + 1 / fewer
