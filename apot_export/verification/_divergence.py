"""The first place at which an export is not the original, and the probable cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from apot_export.network import CodedNetwork
from apot_export.verification._causes import probable_cause
from apot_export.verification._comparisons import Export, differences
from apot_export.verification._differences import Array, Difference
from apot_export.verification._forced import forced_steps
from apot_export.verification._report import Divergence


@torch.no_grad()
def first_divergence(
    module: nn.Module,
    packed: CodedNetwork,
    model_weights: Mapping[str, NDArray[Any]],
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
        images: A sample, float32 [N, C, H, W].
        exported: Every value of the ONNX graph on this sample, by name; the logits too.

    Returns:
        None where the export is the original, up to float32 rounding of float values.
    """
    export = Export(packed=packed, weights=model_weights, images=images, values=exported)
    for step in forced_steps(module, images, exported):
        for difference in differences(step, export):
            return _named(difference)
    return None


def _named(difference: Difference) -> Divergence:
    cause, evidence = probable_cause(difference)
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
