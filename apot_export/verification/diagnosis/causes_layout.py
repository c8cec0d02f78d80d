"""The right numbers in the wrong order: axes swapped, or memory read in another order."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from apot_export.verification.diagnosis.candidates import by_chance
from apot_export.verification.diagnosis.differences import (
    Array,
    Difference,
    LevelDifference,
    ValueDifference,
    WeightDifference,
    within,
)
from apot_export.verification.proof.rounding import Bounded

_SAME = 1e-6
"""Largest difference of two spellings of one weight, in units of the largest."""
_WEIGHT_AXES = {2: "OI", 4: "OIHW"}
_VALUE_AXES = {1: "C", 3: "CHW"}
_FEWEST_VALUES = 3
"""Values that must differ: fewer show no order of the input."""
_SHARED_BYTES = (2, 4, 8)
"""Codes that may begin and end on a byte boundary together."""
_FLAT_AXES = 2
"""A tensor of at most so many axes has features that may have been flattened."""
_LARGEST_FLATTENED = 1 << 24
"""Larger tensors are not tried with every division of their features."""


def layout(difference: Difference) -> str | None:
    """The export holds the original's numbers, or reads its inputs, in another order."""
    if isinstance(difference, ValueDifference) and (says := _operand_order(difference)):
        return says
    return _result_order(difference)


def _result_order(difference: Difference) -> str | None:
    original, export = difference.original, difference.export
    if original.size != export.size or not export.size:
        return None
    if isinstance(difference, WeightDifference):
        names, lead = _WEIGHT_AXES.get(original.ndim, ""), 0
        allowed = np.full(original.shape, _SAME * float(np.abs(original).max()))
        if difference.in_levels:
            allowed = np.zeros(original.shape)
    elif isinstance(difference, (LevelDifference, ValueDifference)):
        names, lead = _VALUE_AXES.get(original.ndim - 1, ""), 1
        allowed = np.zeros(original.shape)
        if isinstance(difference, ValueDifference):
            allowed = difference.allowed.reshape(original.shape)
    else:
        return None
    if not names:
        return None
    forms = dict(_orders(original.shape[lead:], export.shape[lead:], names))
    if not forms or _too_little(difference, len(forms)):
        return None
    for says, order in forms.items():
        expected, slack = (_ordered(side, order, lead) for side in (original, allowed))
        if (np.abs(expected.astype(np.float64) - export) <= slack).all():
            return f"they are the original's {says}"
    return None


def _operand_order(difference: ValueDifference) -> str | None:
    """Find the order in which a layer read its input, as BGR instead of RGB."""
    run = difference.run
    if run is None or not difference.differs.ndim or difference.count < _FEWEST_VALUES:
        return None
    run = run.first(len(difference.export))
    value, bound = run.operand.value, run.operand.bound
    names = _VALUE_AXES.get(value.ndim - 1, "")
    shape = tuple(value.shape[1:])
    for says, order in _orders(shape, shape, names) if names else ():
        places = torch.from_numpy(order.flatten())
        operand = Bounded(
            *(side.flatten(1)[:, places].reshape(side.shape) for side in (value, bound))
        )
        if within(dataclasses.replace(run, operand=operand).computed(), difference.export):
            return f"they are what the layer makes of its input {says}"
    return None


def _too_little(difference: Difference, forms: int) -> bool:
    if difference.differs.ndim:
        return by_chance(difference, forms)
    few = 8
    return len(np.unique(difference.original)) < few


def _ordered(array: Array, order: NDArray[np.int64], lead: int) -> Array:
    """Put numbers into another order: all of them, or those of each image."""
    if lead:
        flat = array.reshape(len(array), -1)[:, order.reshape(-1)]
        return flat.reshape(len(array), *order.shape)
    return array.reshape(-1)[order]


def _orders(
    shape: tuple[int, ...], into: tuple[int, ...], names: str
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield other orders of an array's numbers: what was done, and indices of shape `into`."""
    places = np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
    axes = range(len(shape))
    for order in itertools.permutations(axes):
        if order == tuple(axes):
            continue
        other = "".join(names[axis] for axis in order)
        moved = places.transpose(order)
        if moved.shape == into:
            yield f"with their axes in the order {other} instead of {names}", moved
        else:
            yield f"stored as {other} and read as {names}", moved.reshape(into)
        if into == shape:
            lengths = [shape[axis] for axis in order]
            read = places.reshape(lengths).transpose(np.argsort(order))
            yield f"stored as {names} and read as {other}", read
    if into == shape:
        yield from _reversed(places, names)
        if names.startswith("O"):
            yield from _turned_groups(places)
        if len(names) <= _FLAT_AXES:
            yield from _flattened(places)


def _reversed(places: NDArray[np.int64], names: str) -> Iterator[tuple[str, NDArray[np.int64]]]:
    turned = [axis for axis in range(len(names)) if names[axis] != "O"]
    for count in range(1, len(turned) + 1):
        for axes in itertools.combinations(turned, count):
            said = " and ".join(names[axis] for axis in axes)
            yield f"in reverse order along {said}", np.flip(places, axes)


def _turned_groups(places: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield codes that were unpacked from the other end of the bytes that they share."""
    for count in _SHARED_BYTES:
        if places.size % count == 0:
            turned = np.flip(places.reshape(-1, count), 1).reshape(places.shape)
            yield f"in reverse order within every {count} codes, which share bytes", turned


def _flattened(places: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield features that were flattened with the channels last instead of first."""
    *lead, features = places.shape
    if places.size > _LARGEST_FLATTENED:
        return
    for channels in range(2, features // 2 + 1):
        if features % channels == 0:
            split = places.reshape(*lead, channels, features // channels)
            order = split.swapaxes(-1, -2).reshape(places.shape)
            said = f"{channels} x {features // channels}"
            yield f"with the {said} features transposed before they were flattened", order
