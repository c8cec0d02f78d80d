"""What must be exact, or explained: weights, and every value of a few images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from apot_export.artifacts.onnx_model.probe import (
    by_layer,
    decoder_model,
    float_weights,
    integers_as_such,
    stated_attributes,
    tf32_exact,
    with_outputs,
)
from apot_export.errors import ExportError
from apot_export.network import CodedNetwork
from apot_export.network.comparison import AccumulatorComparison, compare_oracle
from apot_export.runtimes.onnx_runtime import open_session
from apot_export.verification._verdict import proof_failures
from apot_export.verification.diagnosis.divergence import first_divergence
from apot_export.verification.proof.certificate import certify_weights
from apot_export.verification.proof.levels import compare_levels
from apot_export.verification.report import (
    Divergence,
    LevelComparison,
    WeightCertificate,
)

_ORACLE_IMAGES = 2


@dataclass(frozen=True, kw_only=True)
class Proofs:
    """What was found."""

    weights: WeightCertificate
    levels: LevelComparison
    accumulators: AccumulatorComparison
    failures: tuple[str, ...]
    divergence: Divergence | None


def prove_export(
    module: nn.Module,
    graph: onnx.ModelProto,
    packed: CodedNetwork,
    sample: NDArray[np.float32],
    device: str,
) -> Proofs:
    """Compare every weight, and every value that a few images give.

    Args:
        module: The original, on the CPU.
        graph: The ONNX model.
        packed: The network of the packed file.
        sample: float32 [N, C, H, W].
        device: Where ONNX Runtime computes.

    Raises:
        ExportError: The model does not hold what an export's model holds.
    """
    model_weights = _model_weights(graph)
    attributes = stated_attributes(graph)
    weights = certify_weights(module, packed, model_weights, attributes)
    session = open_session(with_outputs(graph), device, tf32=tf32_exact(graph))
    exported = integers_as_such(graph, session.run_all(sample))
    levels = compare_levels(module, sample, exported)
    accumulators = compare_oracle(packed, sample[:_ORACLE_IMAGES], exported)
    failures = tuple(proof_failures(weights, levels, accumulators))
    divergence = (
        first_divergence(module, packed, model_weights, attributes, sample, exported)
        if failures
        else None
    )
    return Proofs(
        weights=weights,
        levels=levels,
        accumulators=accumulators,
        failures=failures,
        divergence=divergence,
    )


def _model_weights(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Decode the ONNX model's weights with ONNX Runtime: what the runtime itself will use."""
    try:
        weights: dict[str, NDArray[Any]] = dict(float_weights(model))
        decoders = decoder_model(model)
    except (LookupError, TypeError, ValueError) as error:
        raise ExportError(
            "The ONNX model does not hold what an export's model holds.",
            got=f"{type(error).__name__}: {error}",
            fix="convert the checkpoint again",
        ) from error
    if decoders is not None:
        weights |= by_layer(open_session(decoders, "cpu").run_all())
    return weights
