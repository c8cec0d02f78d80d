"""The first place at which an export is not the original, and the probable cause."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from apot_export.network import CodedNetwork
from apot_export.verification.diagnosis.causes import corroborated_cause, probable_cause
from apot_export.verification.diagnosis.comparisons import (
    Export,
    attribute_differences,
    differences,
)
from apot_export.verification.diagnosis.differences import Array, Difference, WeightDifference
from apot_export.verification.proof.forced import forced_steps
from apot_export.verification.report import Divergence

_LATER_DIFFERENCES = 64
"""Differences after the first one that are asked for its cause."""


@torch.no_grad()
def first_divergence(
    module: nn.Module,
    packed: CodedNetwork,
    model_weights: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, Mapping[str, Any]],
    images: NDArray[np.float32],
    exported: Mapping[str, NDArray[Any]],
) -> Divergence | None:
    """Find the first place, in order of computation, at which an export is not the original.

    Every value is computed from the export's own inputs of it, so that what is found is where a
    fault is, not where one arrives. At each layer weights are compared first, then thresholds and
    steps, activation levels, sums, and what becomes of them.

    Args:
        module: The original, on the CPU, in evaluation mode.
        packed: The network of the packed file.
        model_weights: What the ONNX model decodes by layer: integer levels, or float weights.
        attributes: What the ONNX model's nodes say of themselves, by value.
        images: A sample, float32 [N, C, H, W].
        exported: Every value of the ONNX graph on this sample, by name; the logits too.

    Returns:
        None where the export is the original, up to float32 rounding of float values.
    """
    export = Export(
        packed=packed,
        weights=model_weights,
        attributes=attributes,
        images=images,
        values=exported,
    )
    steps = forced_steps(module, images, exported)
    found = chain(
        (difference for step in steps for difference in differences(step, export)),
        attribute_differences(module, export),
    )
    first = next(found, None)
    if first is None:
        return None
    cause, evidence = probable_cause(first)
    if cause is None and isinstance(first, WeightDifference) and first.differs.ndim:
        later = (
            difference
            for difference in islice(found, _LATER_DIFFERENCES)
            if isinstance(difference, WeightDifference) and difference.artifact == first.artifact
        )
        cause, evidence = corroborated_cause(first, later) or (cause, evidence)
    return _named(first, cause, evidence)


def _named(difference: Difference, cause: str | None, evidence: str) -> Divergence:
    place: tuple[int, ...] = ()
    if difference.differs.ndim:
        place = tuple(int(index) for index in np.argwhere(difference.differs)[0])
    axis = 0 if difference.kind == "weights" else 1
    return Divergence(
        layer=difference.layer,
        kind=difference.kind,
        place=place,
        channel=place[axis] if len(place) > axis else None,
        original=_number(difference.original, place),
        export=_number(difference.export, place),
        cause=cause,
        evidence=evidence,
    )


def _number(array: Array, place: tuple[int, ...]) -> float | None:
    """Return one value; None where there is none, as where the whole differs."""
    if len(place) != array.ndim:
        return None
    value = float(array[place])
    return None if np.isnan(value) else value
