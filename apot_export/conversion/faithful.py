"""Hold a captured network to what the user's own module computed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.errors import CaptureError
from apot_export.network import Convolution, Linear, Node, SourceNetwork, oracle
from apot_export.original.observed import Observed

_TOLERANCE = 1e-3
"""Of the largest magnitude of a value: rounding stays far below, what changes a result does not."""


def require_same_results(source: SourceNetwork, observed: Observed) -> None:
    """Compare every layer's input, and the results, with those of the user's module.

    Each layer's output is taken from the module: layers are compared by themselves elsewhere, and a
    level that rounding moves in one does not reach the others. What is left is everything between
    them, in numpy.

    Args:
        source: The captured network.
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
        _require_near(f"input of {node.name}", inputs[0], call[0], observed)
        return call[1]

    result = oracle.execute(source.nodes, values, source.output, compute, None)
    _require_near("the results", result, observed.results[0], observed)


def _require_near(what: str, got: NDArray[Any], expected: NDArray[Any], observed: Observed) -> None:
    if got.shape != expected.shape:
        raise _different(what, observed, f"shape {list(got.shape)} for {list(expected.shape)}")
    largest = float(np.abs(expected).max(initial=0))
    apart = float(np.abs(got - expected).max(initial=0))
    if not apart <= _TOLERANCE * largest:
        raise _different(what, observed, f"up to {apart:.3g} apart, of {largest:.3g}")


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
