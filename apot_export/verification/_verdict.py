"""The criteria of PASS, one sentence for each that does not hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from apot_export.datasets.significance import wilson_interval
from apot_export.network.comparison import AccumulatorComparison
from apot_export.network.logits import LogitComparison
from apot_export.original.record import Record
from apot_export.verification.report import (
    BackendComparison,
    ComparedSide,
    LevelComparison,
    RecordComparison,
    ReferenceComparison,
    WeightCertificate,
    Yardstick,
)

_TWO_SIDED_999 = 3.290527
"""Standard errors of a two-sided 99.9 % interval."""
_CLEARLY_WORSE = 0.03
"""How far an accuracy must lie below a record, which its interval must not contain, to fail."""
_EQUAL_CLASSES = 0.99
"""Share of images of which PyTorch names the same class when it computes otherwise: measured."""
_ALIKE = 10
"""Times that rounding's own differences are exceeded by outputs of another order of additions."""
_FEWEST = 10
"""Images from which another network is told apart by its outputs."""


def proof_failures(
    levels: LevelComparison,
    accumulators: AccumulatorComparison,
    weights: WeightCertificate | None = None,
    held_to: str = "the original",
) -> list[str]:
    """Judge what must be exact, or explained by float rounding."""
    failures = []
    if weights and (weights.exact != weights.layers or weights.offenders):
        failures.append(
            f"{weights.layers - weights.exact} of {weights.layers} layers have other weights "
            f"than {held_to}: {'; '.join(weights.offenders)}"
        )
    if levels.unexplained or levels.values_outside:
        failures.append(
            f"{levels.unexplained:,} levels and {levels.values_outside:,} values differ by "
            f"more than float rounding: {'; '.join(levels.offenders)}"
        )
    if accumulators.mismatches or accumulators.values_outside:
        failures.append(
            f"{accumulators.mismatches:,} integers and {accumulators.values_outside:,} values "
            f"differ from the oracle's: {'; '.join(accumulators.offenders)}"
        )
    return failures


def logit_failures(name: str, found: LogitComparison) -> list[str]:
    """Judge the logits of a side as it runs, beside those that proven levels make.

    An image of which no level can have moved has those logits. Where rounding can have moved one,
    logits show nothing unless some proven executor chose the same levels: then they are equal. One
    run of a right side is explained more often than not, of a wrong side never.
    """
    if not found.offenders:
        return []
    return [
        f"{name} computes other logits than its levels make: {found.wrong} of {found.images} have "
        f"no level that can have moved, {found.undecided} are not explained: "
        f"{'; '.join(found.offenders)}"
    ]


def agreement_failures(
    images: int, sides: Sequence[ComparedSide], yardstick: Yardstick | None
) -> list[str]:
    """Judge how often each side names the original's class, beside how often the original does."""
    if yardstick is None:
        return []
    noise = _sampling_noise(images, yardstick)
    return [
        f"{'the export' if position == 0 else side.name} agrees with the original on "
        f"{side.agreement:.2%} of the images, the original with itself on {yardstick.agreement:.2%}"
        for position, side in enumerate(sides)
        if yardstick.agreement - side.agreement > noise
    ]


def reference_failures(found: ReferenceComparison | None) -> list[str]:
    """Judge an export by the outputs that the user's own code computed.

    Rounding moves levels in some images, so neither all classes nor all images are equal, but
    another network is equal in none: half of the images must be, and 99 % of the classes, both
    within chance. Where hardly a level moves, outputs differ by next to nothing: an output that is
    scaled or shifted a little differs there, too.
    """
    if found is None:
        return []
    failures = []
    wanted = _least_agreement(found.images)
    if found.agreement < wanted:
        failures.append(
            f"the export names the class of your outputs for {found.agreement:.2%} of the images; "
            f"at least {wanted:.2%} are expected of {found.images} images"
        )
    wanted = 0.5 - 1.5 / math.sqrt(found.images)
    if found.equal < wanted:
        failures.append(
            f"{found.equal:.2%} of your outputs are equal up to rounding, at least {wanted:.2%} "
            f"are expected of {found.images} images: the typical image differs by "
            f"{found.typical_difference:.2g} standard deviations of the outputs, rounding changes "
            f"{found.noise:.2g}"
        )
    elif found.least_difference > _ALIKE * found.least_noise:
        failures.append(
            f"your outputs differ by {found.least_difference:.2g} of their standard deviation or "
            f"more in nine of ten images, rounding alone changes {found.least_noise:.2g} there: "
            "they may be scaled or shifted"
        )
    if failures:
        failures[-1] += f". {_blame(found)}"
    return failures


def baseline_failures(images: int, sides: Sequence[ComparedSide]) -> list[str]:
    """Judge how often each side names the class of the packed file, where no original is there."""
    wanted = _least_agreement(images)
    return [
        f"{side.name} names the class of the packed file's network for {side.agreement:.2%} of the "
        f"images; at least {wanted:.2%} are expected of {images} images"
        for side in sides
        if side.agreement < wanted
    ]


def _least_agreement(images: int) -> float:
    """Return how often two computations of one network name the same class at least."""
    chance = math.sqrt(_EQUAL_CLASSES * (1 - _EQUAL_CLASSES) / images)
    return _EQUAL_CLASSES - 4 * chance - 1 / images


def _blame(found: ReferenceComparison) -> str:
    if found.original_equal is not None and found.original_equal > found.equal + 0.25:
        return "The rebuilt original is equal to your outputs: the export is wrong"
    return (
        "Your code and the export compute different networks: other bits, level set or first and "
        "last layers, another checkpoint, images that are preprocessed differently, or outputs "
        "after softmax, of training mode, half precision or TF32"
    )


def reference_notes(found: ReferenceComparison | None) -> list[str]:
    """Return what a comparison with the user's outputs could not show."""
    if found is None or found.images >= _FEWEST:
        return []
    return [f"{found.images} images are too few to tell networks apart: give {_FEWEST} or more"]


def compare_record(record: Record, hits: int, images: int, *, ignored: bool) -> RecordComparison:
    """Judge an accuracy that was measured on images of the network's own dataset by the record.

    The record is of the whole test set, or of another set or epoch: training codes differ. So an
    accuracy that chance does not explain is a warning, and only one that is clearly worse fails.
    """
    measured = hits / images
    low, high = wilson_interval(hits, images, _TWO_SIDED_999)
    verdict = "ok" if low <= record.value <= high else "warning"
    if verdict == "warning" and record.value - measured > _CLEARLY_WORSE:
        verdict = "ignored" if ignored else "FAIL"
    return RecordComparison(
        key=record.key,
        recorded=record.value,
        measured=measured,
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


def note_without_original(manifest: Mapping[str, Any], *, is_gone: bool) -> str:
    """Say what a run without an original could not show."""
    if is_gone:
        return (
            f"the original is not there: that the weights are those of the checkpoint (SHA-256 "
            f"{manifest['checkpoint']['sha256']}) was not proven; name it with "
            "--checkpoint FILE to prove it"
        )
    return (
        "no original was built (its checkpoint is not there, or is of a custom network without "
        "--model): weights and levels were not compared with it"
    )


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
