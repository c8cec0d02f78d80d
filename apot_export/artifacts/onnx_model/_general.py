"""Operations that compute themselves, as standard operators."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apot_export.network import Shape
from apot_export.network import operations as op

_AXES_ARE_INPUTS = 18
"""First version of the operator set in which reductions read their axes."""


class Operator(NamedTuple):
    """A standard operator and what it reads beside the value before it."""

    kind: str
    constants: dict[str, NDArray[Any]]
    attributes: dict[str, Any]
    constant_first: bool = False


def operators_of(operation: op.SelfComputing, shape: Shape, opset: int) -> list[Operator]:
    """Return the operators that compute an operation, one after the other.

    Args:
        operation: The operation.
        shape: Of its (first) input, without the batch axis.
        opset: Version of the operator set.
    """
    match operation:
        case op.Reduce():
            return [_reduction(operation, opset)]
        case op.Slice():
            return [_slice(operation)]
        case op.Pad():
            return [_padding(operation)]
        case op.Resample():
            return _resampling(*operation.matrices(*shape[1:]))
        case _:
            return [_simple(operation)]


def _simple(operation: op.SelfComputing) -> Operator:
    if isinstance(operation, op.Elementwise):
        return Operator(op.FUNCTIONS[operation.function].onnx, {}, {})
    if isinstance(operation, op.Reshape):
        return Operator("Reshape", {"shape": _integers(0, *operation.shape)}, {})
    if isinstance(operation, op.Transpose):
        return Operator("Transpose", {}, {"perm": [0, *operation.order]})
    return Operator("Mul", {}, {})


def _reduction(operation: op.Reduce, opset: int) -> Operator:
    kind = {"mean": "ReduceMean", "max": "ReduceMax"}[operation.function]
    if opset < _AXES_ARE_INPUTS:
        return Operator(kind, {}, {"keepdims": 1, "axes": operation.axes})
    return Operator(kind, {"axes": _integers(*operation.axes)}, {"keepdims": 1})


def _slice(operation: op.Slice) -> Operator:
    constants = {
        "starts": _integers(*operation.start),
        "ends": _integers(*operation.stop),
        "axes": _integers(*range(1, len(operation.start) + 1)),
        "steps": _integers(*operation.step),
    }
    return Operator("Slice", constants, {})


def _padding(operation: op.Pad) -> Operator:
    widths = {"pads": _integers(0, *operation.before, 0, *operation.after)}
    if operation.value is None:
        return Operator("Pad", widths, {"mode": "edge"})
    return Operator("Pad", {**widths, "value": np.array(operation.value, dtype=np.float32)}, {})


def _resampling(rows: NDArray[np.float32], columns: NDArray[np.float32]) -> list[Operator]:
    found = []
    if not _changes_nothing(columns):
        found.append(Operator("MatMul", {"columns": np.ascontiguousarray(columns.T)}, {}))
    if not _changes_nothing(rows) or not found:
        found.append(Operator("MatMul", {"rows": rows}, {}, constant_first=True))
    return found


def _integers(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _changes_nothing(matrix: NDArray[np.float32]) -> bool:
    return matrix.shape[0] == matrix.shape[1] and bool((matrix == np.eye(len(matrix))).all())
