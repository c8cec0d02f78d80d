"""Logits of a run that shows nothing else, beside those that proven levels make.

A runtime compiles another program for a model all of whose values are outputs than for the model
itself. So what the shown values prove of the one, logits have to carry over to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.network import CodedNetwork, Node, oracle
from apot_export.network import operations as op
from apot_export.network.bounds import UNIT_ROUNDOFF
from apot_export.network.comparison import of_magnitudes, rounding_bound

_QUANTIZER_ROUNDINGS = 4
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class LogitComparison:
    """Logits of a side's runs, images of all batch sizes together."""

    images: int = 0
    explained: int = 0
    """Images with the logits of proven levels, up to the rounding of floats."""
    undecided: int = 0
    """Others: rounding may have moved a level of theirs, which changes logits visibly."""
    wrong: int = 0
    """Others: no level of theirs can have moved."""
    largest_ratio: float = 0.0
    """Largest difference of the explained ones in units of its bound."""
    offenders: tuple[str, ...] = ()
    """Batch sizes of which an image is wrong, or more are undecided than explained."""


@dataclass(frozen=True, kw_only=True)
class ExpectedLogits:
    """What integers make of images, and how far float32 rounding can move it."""

    logits: NDArray[np.float32]
    """[N, classes, ...]"""
    allowed: NDArray[np.float64]
    """Largest differences between two evaluations, likewise."""
    movable: NDArray[np.int64]
    """Levels of every image that rounding can have moved, [N]."""


def compare_logits(
    candidates: Sequence[Callable[[], ExpectedLogits]], runs: Mapping[int, NDArray[np.float32]]
) -> LogitComparison:
    """Judge logits that were computed in batches of several sizes.

    Args:
        candidates: What proven levels make of the images, as several executors chose them where
            rounding decides; those after the first are asked only where it explains too little.
        runs: Logits of the first images, by batch size.
    """
    known: list[ExpectedLogits] = []
    images = explained = wrong = 0
    largest, offenders = 0.0, []
    for batch, logits in runs.items():
        outside, certain = np.ones(len(logits), dtype=bool), np.zeros(len(logits), dtype=bool)
        ratios = np.full(len(logits), np.inf)
        for number, candidate in enumerate(candidates):
            if not outside.any():
                break
            known += [candidate()] if number == len(known) else []
            found = _ratios(known[number], logits)
            ratios = np.minimum(ratios, found)
            outside = ratios > 1
            certain |= known[number].movable[: len(logits)] == 0
        images += len(logits)
        explained += int((~outside).sum())
        wrong += int((outside & certain).sum())
        largest = max(largest, float(ratios[~outside].max(initial=0)))
        if (outside & certain).any() or outside.sum() > len(logits) / 2:
            offenders.append(_offender(known[0], batch, logits, outside, certain))
    return LogitComparison(
        images=images,
        explained=explained,
        undecided=images - explained - wrong,
        wrong=wrong,
        largest_ratio=largest,
        offenders=tuple(offenders[:_SHOWN]),
    )


def _ratios(expected: ExpectedLogits, logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the largest difference of each image's logits in units of what is allowed, [N]."""
    count = len(logits)
    with np.errstate(invalid="ignore"):
        apart = np.abs(logits.astype(np.float64) - expected.logits[:count])
        ratios = apart / np.maximum(expected.allowed[:count], np.finfo(np.float32).tiny)
    largest = np.nan_to_num(ratios, nan=np.inf).reshape(count, -1).max(axis=1)
    return np.asarray(largest, dtype=np.float64)


def _offender(
    expected: ExpectedLogits,
    batch: int,
    logits: NDArray[np.float32],
    outside: NDArray[np.bool_],
    certain: NDArray[np.bool_],
) -> str:
    """Name the first image that is wrong, else the first that no proven levels explain."""
    places = outside & certain if (outside & certain).any() else outside
    image = int(np.argmax(places))
    apart = np.abs(logits[image].astype(np.float64) - expected.logits[image]).ravel()
    place = int(np.nan_to_num(apart, nan=np.inf).argmax())
    got, right, allowed = (
        float(values[image].flat[place]) for values in (logits, expected.logits, expected.allowed)
    )
    return (
        f"in batches of {batch}, {int(outside.sum())} of {len(logits)} images, first image "
        f"{image}: {got:.9g} instead of {right:.9g} +- {allowed:.3g}"
    )


def expected_logits(
    packed: CodedNetwork, images: NDArray[np.float32], values: Mapping[str, NDArray[Any]]
) -> ExpectedLogits:
    """Compute the logits of the packed file's network from given levels and accumulators.

    Integers have no error. From them on, the error of every float is at most that of its own
    operation (`rounding_bound`) and what it makes of its operands' errors. So no tolerance is
    chosen: two right evaluations of the same integers lie within `allowed`, and where the operand
    of a quantizer, give or take its error, has one level alone, every right evaluation has it.

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
        shape = (len(images), *packed.shapes[node.name])
        if isinstance(node.operation, op.QuantizeActivation):
            quantizer = packed.input_quantizer(node.operation.layer)
            slack = carried[0] + _QUANTIZER_ROUNDINGS * UNIT_ROUNDOFF * np.abs(inputs[0])
            ends = [(inputs[0] + side * slack).astype(np.float32) for side in (-1, 1)]
            low, high = (oracle.quantize_activation(end, quantizer) for end in ends)
            movable += (low != high).reshape(len(images), -1).sum(axis=1)
        if given is not None and given.dtype != np.float32 and given.shape == shape:
            known[node.name] = given.astype(np.int64)
            errors[node.name] = np.zeros(shape)
            continue
        known[node.name] = oracle.compute(packed, node, inputs)
        whole = known[node.name].dtype != np.float32
        errors[node.name] = np.zeros(shape)
        if not whole:
            own = rounding_bound(packed, node, inputs)
            errors[node.name] += own + _carried(packed, node, inputs, carried)
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
    found = of_magnitudes(packed, node, list(errors), constants=False)
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
