"""Hold what was stated about a checkpoint to what its batch-norms remember."""

from __future__ import annotations

from typing import Any

from apot_export.errors import BitWidthError
from apot_export.original.original import Original
from apot_export.original.quantization import STATISTICS
from apot_export.original.witness import DECISIVE, Weights, weigh


def require_supported(original: Original, *, trust: bool) -> dict[str, Any] | None:
    """Compare the stated weights with the statistics of batch-norm.

    Args:
        original: The network as it was stated.
        trust: Convert also what the statistics contradict.

    Returns:
        `weights` (the hypothesis that the statistics support best), `decisive`, and `agrees` (None
        if nothing was decided); None for a network without clipping thresholds.

    Raises:
        BitWidthError: The statistics decide for other weights, and `trust` is off.
    """
    if not original.family.has_thresholds:
        return None
    stated = Weights.of(original.quantization)
    found = weigh(original.module, original.architecture.input_shape, original.family, stated)
    evidence = found.of(original.family, stated)
    agrees = None
    if found.best is not None and found.decisive and evidence is not None:
        agrees = evidence > -DECISIVE
        if not agrees and not trust:
            raise BitWidthError(
                "The checkpoint's batch-norms contradict the stated quantization of its weights.",
                where=str(original.checkpoint.path) if original.checkpoint else None,
                expected=f"{found.best}, which predicts the means that they remember",
                got=f"{stated} (bits: {original.plan.bits.source}, level set: "
                f"{original.plan.method.source}), {-evidence:.0f} nats less likely",
                fix=f"state what the network was trained with ({found.best.options()}), or convert "
                "it as stated: --trust-options",
            )
    best = None if found.best is None else {"method": found.best.method, "bits": found.best.bits}
    return {"weights": best, "decisive": found.decisive, "agrees": agrees, "source": STATISTICS}
