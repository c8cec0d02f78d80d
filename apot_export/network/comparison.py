"""Compare the values that a runtime computed with the oracle's, node by node.

The oracle is given the runtime's own inputs of each node, so that a difference of one value never
reaches the next. Levels and accumulators must be equal; floats may differ by float32 rounding.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.network import CodedLayer, CodedNetwork, FloatLayer, Node, oracle
from apot_export.network import operations as op
from apot_export.network.bounds import UNIT_ROUNDOFF, sum_roundings

_ROUNDINGS = 4
"""Roundings of one value beyond those of its sum."""
_SHOWN = 5
LOGITS = "logits"
"""What the ONNX model calls the network's output."""


@dataclass(frozen=True, kw_only=True)
class AccumulatorComparison:
    """What a runtime and the oracle compute, node by node, from the same inputs."""

    images: int = 0
    compared: int = 0
    """Integers: levels and accumulators."""
    mismatches: int = 0
    offenders: tuple[str, ...] = ()
    values_compared: int = 0
    """Float values of the other nodes."""
    values_outside: int = 0
    """Of these, values further apart than float rounding allows."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first place at which two computations of one thing differ."""

    value: str
    """The value of the graph that differs, or the layer whose weights or constants do."""
    layer: str
    kind: str
    """What differs: "weights", "constants", "levels", "values" or "integers"."""
    says: str
    """How many, where and how."""
    place: tuple[int, ...] = ()
    """Index of the first one; empty where the whole differs."""
    original: float | None = None
    """What is right there; None where there is no such number."""
    export: float | None = None
    late: bool = False
    """Whether no computed value depends on it: then any other difference comes first."""


def first_place(differs: NDArray[np.bool_]) -> tuple[int, ...]:
    """Return the index of the first true element."""
    return tuple(int(index) for index in np.argwhere(differs)[0])


def compare_oracle(
    packed: CodedNetwork,
    images: NDArray[np.float32],
    exported: Mapping[str, NDArray[Any]],
    found: list[Difference] | None = None,
    *,
    whose: str = "ONNX model",
    fused: bool = False,
) -> AccumulatorComparison:
    """Recompute every value of the packed file's network from a runtime's own inputs to it.

    Args:
        packed: The network of the packed file.
        images: float32 [N, C, H, W].
        exported: Every value of the ONNX graph on these images (or more), by name.
        found: Gets the differences; `original` is the runtime's number, `export` the packed file's.
        whose: What is compared with the packed file, in words.
        fused: Whether a runtime that computes floats as the oracle does shows some of them only:
            the others are then the oracle's.
    """
    known: dict[str, NDArray[Any]] = {packed.input: images}
    for node in packed.nodes:
        name = LOGITS if node.name == packed.output else node.name
        if name in exported:
            known[node.name] = exported[name][: len(images)]
    found = [] if found is None else found
    before = len(found)
    compared, differing = Counter[bool](), Counter[bool]()
    for node in packed.nodes:
        if fused and node.name not in known and not makes_integers(packed, node):
            inputs = _as_computed(known[name] for name in node.inputs)
            known[node.name] = oracle.compute(packed, node, inputs)
            continue
        whole, size, count, difference = _compare_node(packed, node, known, whose)
        compared[whole] += size
        differing[whole] += count
        found += [] if difference is None else [difference]
    return AccumulatorComparison(
        images=len(images) if compared[True] else 0,
        compared=compared[True],
        mismatches=differing[True],
        values_compared=compared[False],
        values_outside=differing[False],
        offenders=tuple(f"{one.value}: {one.says}" for one in found[before:][:_SHOWN]),
    )


def _compare_node(
    packed: CodedNetwork, node: Node, known: Mapping[str, NDArray[Any]], whose: str
) -> tuple[bool, int, int, Difference | None]:
    """Compare one value.

    Returns:
        Whether it is of integers, how many there are, how many differ, and the first one.
    """
    name = LOGITS if node.name == packed.output else node.name
    layer = str(getattr(node.operation, "layer", name))
    inputs = [known[name] for name in node.inputs if name in known]
    if len(inputs) < len(node.inputs) or node.name not in known:
        says = f"no such value in the {whose}"
        return False, 0, 1, Difference(value=name, layer=layer, kind="values", says=says)
    inputs = _as_computed(inputs)
    try:
        expected, got = oracle.compute(packed, node, inputs), known[node.name]
    except (TypeError, ValueError) as error:
        says = f"its inputs are not of the kinds and shapes that it reads in the {whose}: {error}"
        return False, 0, 1, Difference(value=name, layer=layer, kind="values", says=says)
    differs = _differing(packed, node, inputs, expected, got)
    whole, count = expected.dtype != np.float32, int(differs.sum())
    if not count:
        return whole, expected.size, 0, None
    kind = "integers" if whole else "values"
    place = first_place(differs) if got.shape == expected.shape else ()
    difference = Difference(
        value=name,
        layer=layer,
        kind="levels" if isinstance(node.operation, op.QuantizeActivation) else kind,
        says=f"{count} of {expected.size} {kind} differ between packed file and {whose}",
        place=place,
        original=float(got[place]) if place else None,
        export=float(expected[place]) if place else None,
    )
    return whole, expected.size, count, difference


def _as_computed(values: Iterable[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return floats as they are, and integers in the oracle's type."""
    return [value if value.dtype == np.float32 else value.astype(np.int64) for value in values]


def makes_integers(network: CodedNetwork, node: Node) -> bool:
    """Tell whether a node makes levels or accumulators."""
    if isinstance(node.operation, (op.Convolution, op.Linear)):
        layer = network.layers[node.operation.layer]
        return isinstance(layer, CodedLayer) and layer.activation is not None
    return isinstance(node.operation, op.QuantizeActivation)


def _differing(
    packed: CodedNetwork,
    node: Node,
    inputs: list[NDArray[Any]],
    expected: NDArray[Any],
    got: NDArray[Any],
) -> NDArray[np.bool_]:
    """Tell which values are not the oracle's; all of them where shapes or types differ."""
    if got.shape != expected.shape or (got.dtype == np.float32) != (expected.dtype == np.float32):
        return np.ones(expected.shape, dtype=np.bool_)
    if expected.dtype != np.float32:
        return np.asarray(got != expected)
    with np.errstate(invalid="ignore"):  # The difference of two infinities is no number.
        difference = np.abs(expected.astype(np.float64) - got)
        near = (difference <= rounding_bound(packed, node, inputs)) | (got == expected)
    return np.asarray(~near)


def rounding_bound(
    packed: CodedNetwork, node: Node, inputs: list[NDArray[Any]]
) -> NDArray[np.float64]:
    """Return how far two float32 evaluations of a node may be apart.

    The error of a sum grows with the sum of its absolute terms, which is what the same node makes
    of absolute values.
    """
    operation = node.operation
    taps = 0.0
    if isinstance(operation, (op.AveragePool, op.GlobalAveragePool)):
        taps = inputs[0][0, 0].size
    elif isinstance(operation, op.Reduce):
        taps = inputs[0].size / max(1, operation.compute(inputs[0]).size)
    elif isinstance(operation, op.Resample):
        taps = math.prod(inputs[0].shape[2:])
    elif isinstance(operation, op.Elementwise):
        result = np.abs(operation.compute(inputs[0])) + op.FUNCTIONS[operation.function].scale
        return np.asarray(op.FUNCTION_ROUNDINGS * UNIT_ROUNDOFF * result.astype(np.float64))
    elif isinstance(operation, (op.Convolution, op.Linear)):
        taps = packed.layers[operation.layer].weights()[0].size
    magnitude = of_magnitudes(packed, node, [np.abs(value) for value in inputs])
    roundings = sum_roundings(taps) + _ROUNDINGS
    return np.asarray(2 * roundings * UNIT_ROUNDOFF * magnitude.astype(np.float64))


def of_magnitudes(
    packed: CodedNetwork, node: Node, inputs: list[NDArray[Any]], *, constants: bool = True
) -> NDArray[Any]:
    """Compute a node of absolute values with absolute weights, with or without its constants."""
    operation = node.operation
    if isinstance(operation, op.ScaleBias):
        bias = np.abs(operation.bias) if constants else np.zeros_like(operation.bias)
        operation = op.ScaleBias(scale=np.abs(operation.scale), bias=bias)
    elif isinstance(operation, op.Pad) and operation.value is not None:
        value = abs(operation.value) if constants else 0.0
        operation = dataclasses.replace(operation, value=value)
    elif isinstance(operation, op.Resample):
        operation = op.Resample(rows=np.abs(operation.rows), columns=np.abs(operation.columns))
    elif isinstance(operation, (op.Convolution, op.Linear)):
        layer = packed.layers[operation.layer]
        weights = layer.levels() if isinstance(layer, CodedLayer) else layer.weights()
        absolute = FloatLayer(name=layer.name, stored=np.abs(weights).astype(np.float32))
        packed = dataclasses.replace(packed, layers={**packed.layers, layer.name: absolute})
    return oracle.compute(packed, dataclasses.replace(node, operation=operation), inputs)
