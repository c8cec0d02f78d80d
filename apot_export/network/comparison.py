"""Compare the values that a runtime computed with the oracle's, node by node.

The oracle is given the runtime's own inputs of each node, so that a difference of one value never
reaches the next. Levels and accumulators must be equal; floats may differ by float32 rounding.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
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
) -> AccumulatorComparison:
    """Recompute every value of the packed file's network from a runtime's own inputs to it.

    Args:
        packed: The network of the packed file.
        images: float32 [N, C, H, W].
        exported: Every value of the ONNX graph on these images (or more), by name.
        found: Gets the differences; `original` is the runtime's number, `export` the packed file's.
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
        whole, size, count, difference = _compare_node(packed, node, known)
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
    packed: CodedNetwork, node: Node, known: Mapping[str, NDArray[Any]]
) -> tuple[bool, int, int, Difference | None]:
    """Compare one value.

    Returns:
        Whether it is of integers, how many there are, how many differ, and the first one.
    """
    name = LOGITS if node.name == packed.output else node.name
    layer = str(getattr(node.operation, "layer", name))
    inputs = [known[name] for name in node.inputs if name in known]
    if len(inputs) < len(node.inputs) or node.name not in known:
        says = "no such value in the ONNX model"
        return False, 0, 1, Difference(value=name, layer=layer, kind="values", says=says)
    inputs = [value if value.dtype == np.float32 else value.astype(np.int64) for value in inputs]
    expected, got = oracle.compute(packed, node, inputs), known[node.name]
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
        says=f"{count} of {expected.size} {kind} differ between packed file and ONNX model",
        place=place,
        original=float(got[place]) if place else None,
        export=float(expected[place]) if place else None,
    )
    return whole, expected.size, count, difference


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
        near = (difference <= _bound(packed, node, inputs)) | (got == expected)
    return np.asarray(~near)


def _bound(packed: CodedNetwork, node: Node, inputs: list[NDArray[Any]]) -> NDArray[np.float64]:
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
    magnitude = _of_magnitudes(packed, node, [np.abs(value) for value in inputs])
    roundings = sum_roundings(taps) + _ROUNDINGS
    return np.asarray(2 * roundings * UNIT_ROUNDOFF * magnitude.astype(np.float64))


def _of_magnitudes(
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


# --- logits of a run that shows nothing else ------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LogitComparison:
    """Logits of runs that show nothing else, beside those that the proven levels make."""

    images: int = 0
    """Of all runs together."""
    explained: int = 0
    """Images with the logits of the proven levels, up to float rounding."""
    undecided: int = 0
    """Others: rounding may have moved a level of theirs, which changes logits visibly."""
    wrong: int = 0
    """Others: no level of theirs can have moved."""
    largest_ratio: float = 0.0
    """Largest difference of the explained ones in units of its bound."""
    offenders: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExpectedLogits:
    """What integers make of images, and how far float32 rounding can move it."""

    logits: NDArray[np.float32]
    """[N, classes, ...]"""
    allowed: NDArray[np.float64]
    """Largest differences between two evaluations, likewise."""
    movable: NDArray[np.int64]
    """Levels of every image that rounding can have moved, [N]."""

    def compare(self, runs: Mapping[str, NDArray[np.float32]]) -> LogitComparison:
        """Judge the logits of the first images, as a side computed them in runs of a name each."""
        found = LogitComparison()
        for name, logits in runs.items():
            count = len(logits)
            with np.errstate(invalid="ignore"):
                apart = np.abs(logits.astype(np.float64) - self.logits[:count])
                ratios = apart / np.maximum(self.allowed[:count], np.finfo(np.float32).tiny)
            ratios = np.nan_to_num(ratios, nan=np.inf).reshape(count, -1)
            outside = (ratios > 1).any(axis=1)
            wrong = outside & (self.movable[:count] == 0)
            offenders = list(found.offenders)
            if outside.any():
                place = first_place(wrong if wrong.any() else outside)[0]
                what = "no level of it can have" if wrong.any() else "a level of it may have"
                at = int(ratios[place].argmax())
                offenders.append(
                    f"{int(outside.sum())} of {count} images in {name}, first image {place}: "
                    f"{logits[place].flat[at]:.9g} instead of {self.logits[place].flat[at]:.9g} +- "
                    f"{self.allowed[place].flat[at]:.3g}, and {what} moved"
                )
            found = LogitComparison(
                images=found.images + count,
                explained=found.explained + int((~outside).sum()),
                undecided=found.undecided + int((outside & ~wrong).sum()),
                wrong=found.wrong + int(wrong.sum()),
                largest_ratio=max(found.largest_ratio, float(ratios[~outside].max(initial=0))),
                offenders=tuple(offenders[:_SHOWN]),
            )
        return found


def expected_logits(
    packed: CodedNetwork, images: NDArray[np.float32], values: Mapping[str, NDArray[Any]]
) -> ExpectedLogits:
    """Compute the logits of the packed file's network from given levels and accumulators.

    Integers have no error. From them on, the error of every float is at most that of its own
    operation (`_bound`) and what it makes of its operands' errors. So no tolerance is chosen: two
    right evaluations of the same integers lie within `allowed`, and where the operand of a
    quantizer, give or take its error, has one level alone, every right evaluation has that level.

    Args:
        packed: The network of the packed file.
        images: float32 [N, C, H, W].
        values: Integers of these images by name, as `compare_oracle` and the original found right.
    """
    known: dict[str, NDArray[Any]] = {packed.input: images}
    errors = {packed.input: np.zeros(images.shape)}
    movable = np.zeros(len(images), dtype=np.int64)
    for node in packed.nodes:
        inputs = [known[name] for name in node.inputs]
        carried = [errors[name] for name in node.inputs]
        given = values.get(node.name)
        if isinstance(node.operation, op.QuantizeActivation):
            quantizer = packed.input_quantizer(node.operation.layer)
            slack = carried[0] + _ROUNDINGS * UNIT_ROUNDOFF * np.abs(inputs[0])
            ends = [(inputs[0] + side * slack).astype(np.float32) for side in (-1, 1)]
            low, high = (oracle.quantize_activation(end, quantizer) for end in ends)
            movable += (low != high).reshape(len(images), -1).sum(axis=1)
        if given is not None and given.dtype != np.float32:
            known[node.name] = given.astype(np.int64)
            errors[node.name] = np.zeros(given.shape)
            continue
        known[node.name] = oracle.compute(packed, node, inputs)
        whole = known[node.name].dtype != np.float32
        error = (
            0 if whole else _bound(packed, node, inputs) + _carried(packed, node, inputs, carried)
        )
        errors[node.name] = np.broadcast_to(error, known[node.name].shape)
    return ExpectedLogits(
        logits=known[packed.output], allowed=errors[packed.output], movable=movable
    )


def _carried(
    packed: CodedNetwork,
    node: Node,
    inputs: list[NDArray[Any]],
    errors: list[NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return how far the errors of a node's operands can move its value."""
    operation = node.operation
    if not any(error.any() for error in errors):
        return np.zeros(1)
    if isinstance(operation, (op.Relu, op.Clip)):
        return errors[0]
    if isinstance(operation, op.Multiply):
        (a, b), (of_a, of_b) = (np.abs(value).astype(np.float64) for value in inputs), errors
        return np.asarray(of_a * b + of_b * a + of_a * of_b)
    if isinstance(operation, op.Elementwise):
        return _of_function(operation, inputs[0].astype(np.float64), errors[0])
    found = _of_magnitudes(packed, node, list(errors), constants=False)
    return np.asarray(found, dtype=np.float64)


def _of_function(
    operation: op.Elementwise, values: NDArray[np.float64], errors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how far a function can move: all of them are monotone on either side of 0."""
    with np.errstate(all="ignore"):
        compute = op.FUNCTIONS[operation.function].compute
        middle, ends = compute(values), [compute(values + side * errors) for side in (-1, 1)]
        moved = np.maximum(*(np.abs(end - middle) for end in ends))
        across = (np.abs(values) <= errors) & (errors > 0)
    pole = across if operation.function == "reciprocal" else np.zeros_like(across)
    return np.asarray(np.where(pole | ~np.isfinite(moved), np.where(errors > 0, np.inf, 0), moved))
