"""Hold a captured network to what the user's own module computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from apot_export.errors import CaptureError
from apot_export.network import Convolution, Linear, Node, SourceNetwork, oracle
from apot_export.original.borders import prepared
from apot_export.original.original import Observed

_TOLERANCE = 1e-3
"""Of the largest magnitude of a value: rounding stays far below, what changes a result does not."""


def require_same_results(source: SourceNetwork, module: nn.Module, observed: Observed) -> None:
    """Compare every layer's input, and the results, with those of the user's module.

    Each layer's output is taken from the module: layers are compared by themselves elsewhere, and a
    level that rounding moves in one does not reach the others. What is left is everything between
    them, in numpy.

    Args:
        source: The captured network.
        module: The original, of our own layers.
        observed: A run of the module.

    Raises:
        CaptureError: A value differs by more than rounding.
    """
    calls = {name: iter(found) for name, found in observed.calls.items()}
    values: dict[str, NDArray[Any]] = {source.input: observed.images}

    def compute(node: Node, inputs: list[NDArray[Any]]) -> NDArray[Any]:
        if not isinstance(node.operation, (Convolution, Linear)):
            return oracle.apply(node.operation, inputs)
        call = next(calls.get(node.operation.layer, iter(())), None)
        if call is None:
            raise _different(f"input of {node.name}", observed, "a call that was not made")
        layer = module.get_submodule(node.operation.layer)
        expected = prepared(layer, torch.from_numpy(call[0])).numpy()
        _require_near(f"input of {node.name}", inputs[0], expected, observed)
        return call[1]

    outputs = dict.fromkeys((source.output, *source.further_outputs), observed.images)

    def keep(name: str, value: NDArray[Any]) -> None:
        if name in outputs:
            outputs[name] = value

    oracle.execute(source.nodes, values, source.output, compute, keep)
    # The network has each value once, and no image; a module may return them again.
    left, before = list(outputs.values()), [observed.images]
    for number, expected in enumerate(observed.results):
        if not (left and _difference(left[0], expected) is None) and any(
            _difference(value, expected) is None for value in before
        ):
            continue
        if not left:
            raise _different(f"result {number}", observed, "no such value")
        before.append(left.pop(0))
        _require_near(f"result {number}", before[-1], expected, observed)
    if left:
        raise _different("the results", observed, f"{len(left)} more values")


def _require_near(what: str, got: NDArray[Any], expected: NDArray[Any], observed: Observed) -> None:
    if (difference := _difference(got, expected)) is not None:
        raise _different(what, observed, difference)


def _difference(got: NDArray[Any], expected: NDArray[Any]) -> str | None:
    """Return how two values differ; None where rounding explains it."""
    if got.shape != expected.shape:
        return f"shape {list(got.shape)} for {list(expected.shape)}"
    largest = float(np.abs(expected).max(initial=0))
    apart = float(np.abs(got - expected).max(initial=0))
    return None if apart <= _TOLERANCE * largest else f"up to {apart:.3g} apart, of {largest:.3g}"


def _different(what: str, observed: Observed, got: str) -> CaptureError:
    hooks = observed.hooks
    return CaptureError(
        "The captured network computes something else than the module.",
        where=what,
        expected="what the module itself computes in evaluation mode",
        got=got + (f"; the module has: {', '.join(hooks)}" if hooks else ""),
        fix="remove the hooks, or write what they do into the forward pass"
        if hooks
        else "make the forward pass depend on nothing but the image: no random numbers, no state",
    )
