"""What must be exact, or explained: weights, and every value of a few images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from apot_export.artifacts.onnx_model.probe import (
    by_layer,
    decoder_model,
    integers_as_such,
    stated_attributes,
    stored_weights,
    takes_any_size,
    tf32_exact,
    with_outputs,
)
from apot_export.errors import ExportError
from apot_export.network import CodedNetwork
from apot_export.network.comparison import (
    LOGITS,
    AccumulatorComparison,
    Difference,
    compare_oracle,
)
from apot_export.runtimes.onnx_runtime import open_session
from apot_export.verification._verdict import proof_failures
from apot_export.verification.diagnosis import probable_cause
from apot_export.verification.proof.batches import mixing_nodes
from apot_export.verification.proof.certificate import certify_weights
from apot_export.verification.proof.levels import ForcedWalk
from apot_export.verification.proof.sizes import compare_another_size
from apot_export.verification.report import (
    Divergence,
    LevelComparison,
    SizeComparison,
    WeightCertificate,
)

ORACLE_IMAGES = 2
_SHOWN_NODES = 5


@dataclass(frozen=True, kw_only=True)
class Proofs:
    """What was found."""

    weights: WeightCertificate
    levels: LevelComparison
    accumulators: AccumulatorComparison
    failures: tuple[str, ...]
    divergence: Divergence | None
    another_size: SizeComparison | None = None
    values: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    """What the ONNX model computed, by name."""


def prove_export(
    module: nn.Module | None,
    graph: onnx.ModelProto,
    packed: CodedNetwork,
    sample: NDArray[np.float32],
    device: str,
    algorithm: Mapping[str, str] | None = None,
) -> Proofs:
    """Compare every weight, and every value that a few images give.

    Args:
        module: The original, on the CPU; None to compare the two artifacts with each other alone.
        graph: The ONNX model.
        packed: The network of the packed file.
        sample: float32 [N, C, H, W].
        device: Where ONNX Runtime computes.
        algorithm: How, of the device's `algorithms`; None for the first.

    Raises:
        ExportError: The model does not hold what an export's model holds.
    """
    session = open_session(with_outputs(graph), device, tf32=tf32_exact(graph), algorithm=algorithm)
    exported = integers_as_such(packed, session.run_all(sample))
    found: list[Difference] = []
    weights = certify_weights(module, packed, *_stated_weights(graph), found)
    disputed: list[Difference] = []
    accumulators = compare_oracle(packed, sample[:ORACLE_IMAGES], exported, disputed)
    levels, divergence, held_to = LevelComparison(), None, "the packed file"
    if module is not None:
        watched = {one.value: one.place for one in disputed if one.place}
        walk = ForcedWalk(module, sample.shape[1:], exported, watched)
        levels, held_to = walk.compare(sample), "the original"
        found += [*walk.found, *(_attributed(one, walk, packed) for one in disputed)]
        divergence = _first_divergence(module, packed, found) if found else None
    failures = proof_failures(levels, accumulators, weights, held_to)
    mixing = mixing_nodes(graph)
    if mixing:
        says = "; ".join(mixing[:_SHOWN_NODES])
        failures.append(f"the ONNX model does not compute each image by itself: {says}")
    another = compare_another_size(module, session, packed) if takes_any_size(graph) else None
    return Proofs(
        weights=weights,
        levels=levels,
        accumulators=accumulators,
        failures=(*failures, *(another.failures if another else ())),
        divergence=divergence,
        another_size=another,
        values=exported,
    )


def _attributed(difference: Difference, walk: ForcedWalk, packed: CodedNetwork) -> Difference:
    """Say which of two artifacts is wrong where they differ: the one further from the original."""
    in_model, in_packed = difference.original, difference.export
    if in_model is None or in_packed is None:
        return difference
    original = walk.originals.get(difference.value)
    if original is None:
        # A sum: the model's is right where what it becomes is.
        readers = {node.name for node in packed.nodes if difference.value in node.inputs}
        readers |= {LOGITS} if packed.output in readers else set()
        is_right = not any(other.value in readers for other in walk.found)
        original = in_model if is_right else in_packed
    model_is_wrong = abs(in_model - original) > abs(in_packed - original)
    artifact, got = ("ONNX model", in_model) if model_is_wrong else ("packed file", in_packed)
    says = (
        f"{difference.says}, first at {list(difference.place)}: {got:.9g} instead of "
        f"{original:.9g} in the {artifact}"
    )
    return dataclasses.replace(difference, original=original, export=got, says=says)


def _first_divergence(
    module: nn.Module, packed: CodedNetwork, found: list[Difference]
) -> Divergence:
    """Return the first difference in order of computation: weights, constants, then values.

    Every value was computed from the export's own inputs of it, so that this is where a fault is,
    not where one arrives.
    """
    nodes = {node.name: position for position, node in enumerate(packed.nodes)}
    nodes[LOGITS] = nodes[packed.output]
    layers: dict[str, int] = {}
    for node in packed.nodes:
        layers.setdefault(getattr(node.operation, "layer", node.name), nodes[node.name])

    def order(difference: Difference) -> tuple[bool, int, int]:
        kinds = ("weights", "constants")
        is_of_layer = difference.kind in kinds
        positions = layers if is_of_layer else nodes
        position = positions.get(difference.value, len(nodes))
        rank = kinds.index(difference.kind) if is_of_layer else len(kinds)
        return difference.late, position, rank

    first = min(found, key=order)
    says = first.says
    cause: str | None = None
    if first.kind in ("weights", "constants") and not first.late:
        original = dict(module.named_modules()).get(first.layer, module)
        cause, evidence = probable_cause(original, packed.layers.get(first.layer))
        says = f"{says}: {evidence}"
    axis = 0 if first.kind == "weights" else 1
    return Divergence(
        layer=first.layer,
        kind=first.kind,
        place=first.place,
        channel=first.place[axis] if len(first.place) > axis else None,
        original=_number(first.original),
        export=_number(first.export),
        cause=cause,
        evidence=says,
    )


def _number(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else value


def _stated_weights(
    model: onnx.ModelProto,
) -> tuple[dict[str, NDArray[Any]], dict[str, dict[str, Any]]]:
    """Return a model's weights as ONNX Runtime decodes them, and what is stated of them."""
    try:
        weights: dict[str, NDArray[Any]] = dict(stored_weights(model))
        decoders, attributes = decoder_model(model), stated_attributes(model)
    except (LookupError, TypeError, ValueError) as error:
        raise ExportError(
            "The ONNX model does not hold what an export's model holds.",
            got=f"{type(error).__name__}: {error}",
            fix="convert the checkpoint again",
        ) from error
    if decoders is not None:
        weights |= by_layer(open_session(decoders, "cpu").run_all())
    return weights, attributes
