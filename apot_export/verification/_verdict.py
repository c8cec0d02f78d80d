"""The criteria of PASS, one sentence for each that does not hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

from apot_export.network.comparison import AccumulatorComparison
from apot_export.verification.report import (
    BackendComparison,
    ComparedSide,
    LevelComparison,
    WeightCertificate,
    Yardstick,
)


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
