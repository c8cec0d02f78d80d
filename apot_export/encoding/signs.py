"""Which values of a network can be negative: unsigned codes of activations hold none."""

from __future__ import annotations

from apot_export.errors import CaptureError
from apot_export.network import (
    Add,
    AveragePool,
    Clip,
    Concat,
    Convolution,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Relu,
    SourceNetwork,
    Upsample,
)

_KEEPS_SIGNS = (Add, MaxPool, AveragePool, GlobalAveragePool, Flatten, Concat, Upsample)
"""Operations whose results are never negative if their inputs are not."""


def require_inputs_that_codes_hold(source: SourceNetwork) -> None:
    """Refuse levels below 0: a layer that lets negative inputs pass must not get any.

    Raises:
        CaptureError: A layer may.
    """
    never_negative: set[str] = set()
    for node in source.nodes:
        inputs_are = all(name in never_negative for name in node.inputs)
        operation = node.operation
        if (
            isinstance(operation, Relu)
            or (isinstance(operation, Clip) and operation.minimum >= 0)
            or (isinstance(operation, _KEEPS_SIGNS) and inputs_are)
        ):
            never_negative.add(node.name)
        if (
            isinstance(operation, (Convolution, Linear))
            and source.layers[operation.layer].passes_negative_inputs
            and not inputs_are
        ):
            raise CaptureError(
                "A layer's input may be negative, and its training code lets such inputs pass.",
                where=operation.layer,
                expected="a ReLU, or a clip at 0, in front of it",
                got=f"{node.inputs[0]}, which nothing keeps from falling below 0",
                fix="train with additive levels, or with the code since May 2020, which clips at 0",
            )
