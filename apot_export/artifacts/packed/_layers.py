"""Reading the layers of FORMAT.md, section 2."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts import strict_json
from apot_export.artifacts.packed._storage import found_codes
from apot_export.artifacts.packed._stored import StoredTensors
from apot_export.network.bitpack import unpack
from apot_export.network.codebook import MAXIMUM_LEVEL, Codebook
from apot_export.network.layers import (
    ActivationQuantizer,
    CodedLayer,
    FloatLayer,
    Layer,
    PlaneLayer,
)
from apot_export.network.planes import Planes, summed_terms

PARAMETERS = "parameters"
INTEGER = "integer"
"""The tensor of the integer program: the last one, where there is one."""
NEUTRAL = {"scale": 1.0, "bias": 0.0}
"""What a `ScaleBias` without the attribute scales or adds."""


def read_codebook(description: Any) -> Codebook:
    """Read a codebook."""
    where = "codebooks"
    tables, denominator, signed = strict_json.fields(
        where, description, "tables", "denominator", "signed"
    )
    return Codebook(
        tables=tuple(
            strict_json.integers(where, table, least=-MAXIMUM_LEVEL, most=MAXIMUM_LEVEL)
            for table in strict_json.array(where, tables)
        ),
        denominator=strict_json.integer(where, denominator),
        signed=strict_json.boolean(where, signed),
    )


class Parameters:
    """Takes numbers from the tensor `parameters`, one run after the other."""

    def __init__(self, tensors: StoredTensors) -> None:
        self._numbers: NDArray[Any] = np.empty(0, dtype="<f4")
        if PARAMETERS in tensors:
            self._numbers = read_tensor(tensors, PARAMETERS, "<f4")
            if self._numbers.ndim != 1:
                raise ValueError(
                    f"{PARAMETERS}: {list(self._numbers.shape)} is not what it must be"
                )
        self._taken = 0

    def take(self, where: str, count: int) -> NDArray[Any]:
        """Return the next `count` numbers."""
        begin, self._taken = self._taken, self._taken + count
        if self._taken > self._numbers.size:
            raise ValueError(f"{where}: needs {count} more parameters than there are")
        return self._numbers[begin : self._taken]

    def require_end(self) -> None:
        """Raise `ValueError` unless all numbers were taken."""
        if self._taken != self._numbers.size:
            raise ValueError(f"{PARAMETERS}: {self._numbers.size - self._taken} that nothing has")


def read_layer(
    name: str,
    description: Any,
    codebooks: list[Codebook],
    tensors: StoredTensors,
    parameters: Parameters,
) -> Layer:
    """Read a layer."""
    if strict_json.mapping(name, description).get("kind") == "float":
        strict_json.fields(name, description, "kind")
        return _float(name, tensors)
    if strict_json.mapping(name, description).get("kind") == "planes":
        return PlaneLayer(name=name, planes=_planes(name, description, tensors, parameters))
    kind, extents, book, step, alpha, activation, storage = strict_json.members(
        name,
        description,
        ("kind", "shape", "codebook", "step"),
        {"alpha": None, "activation": None, "storage": None},
    )
    if kind != "coded":
        raise ValueError(f"{name}: unknown kind {kind!r}")
    codebook = _chosen(name, codebooks, book)
    shape = strict_json.integers(name, extents, least=1)
    codes = found_codes(name, storage, tensors, shape, codebook.bits)
    return CodedLayer(
        name=name,
        shape=shape,
        packed=codes,
        codebook=codebook,
        step=strict_json.number(name, step),
        values=parameters.take(name, 1 << codebook.bits),
        alpha=None if alpha is None else strict_json.number(name, alpha),
        activation=None if activation is None else _activation(name, activation, codebooks),
    )


def _float(name: str, tensors: StoredTensors) -> FloatLayer:
    stored = f"{name}.weight"
    shape = require_type(tensors, stored, "<f4").shape
    weight = tensors.deferred(stored, lambda weight: weight)
    return FloatLayer(name=name, weight=weight, stated_shape=shape)


def _planes(name: str, description: Any, tensors: StoredTensors, parameters: Parameters) -> Planes:
    _, extents, size, width, position_major, summands = strict_json.members(
        name,
        description,
        ("kind", "shape", "group_size", "count_bits"),
        {"position_major": False, "terms": 0},
    )
    shape = strict_json.integers(name, extents, least=1)
    group_size = strict_json.integer(name, size, least=1)
    count_bits = strict_json.integer(name, width, least=1, most=8)
    columns = strict_json.integer(name, summands, least=0)
    groups, rest = divmod(math.prod(shape), group_size)
    if rest:
        raise ValueError(f"{name}: groups of {group_size} do not divide {list(shape)}")
    content = read_tensor(tensors, f"{name}.planes", "u1")
    head = (groups * count_bits + 7) // 8
    if content.ndim != 1 or content.size < head:
        raise ValueError(f"{name}.planes: {list(content.shape)} is not what it must be")
    counts = unpack(content[:head], count_bits, groups).astype(np.uint8)
    bases = int(counts.sum(dtype=np.int64))
    packed = content[head:]
    if packed.size != (bases * group_size + 7) // 8:
        raise ValueError(f"{name}.planes: {packed.size} bytes for {bases} bases")
    unpack(packed[-1:], 1, bases * group_size - (packed.size - 1) * 8 if packed.size else 0)
    terms = None
    if columns:
        terms = np.zeros((0, columns), dtype=np.uint8)
        if bases:
            terms = read_tensor(tensors, f"{name}.terms", "u1")
        if terms.shape != (bases, columns):
            raise ValueError(f"{name}: terms {list(terms.shape)}")
        coordinates = summed_terms(terms)
    else:
        coordinates = parameters.take(name, bases)
    return Planes(
        shape=shape,
        group_size=group_size,
        position_major=strict_json.boolean(name, position_major),
        counts=counts,
        packed=packed,
        coordinates=coordinates,
        terms=terms,
    )


def _activation(name: str, description: Any, codebooks: list[Codebook]) -> ActivationQuantizer:
    book, alpha, steps = strict_json.members(
        name, description, ("codebook", "alpha"), {"input_denominator": None}
    )
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.float32(strict_json.number(name, alpha))
    codebook = _chosen(name, codebooks, book)
    if steps is not None:
        steps = strict_json.integer(name, steps, least=1, most=MAXIMUM_LEVEL)
    return ActivationQuantizer(
        codebook=codebook,
        alpha=rounded,
        input_denominator=None if steps == codebook.denominator else steps,
    )


def _chosen(name: str, codebooks: list[Codebook], index: Any) -> Codebook:
    return codebooks[strict_json.integer(name, index, most=len(codebooks) - 1)]


def require_type(tensors: StoredTensors, name: str, dtype: str) -> NDArray[Any]:
    """Return a tensor of the stated type, of which nothing is read."""
    tensor = tensors.unread(name)
    if tensor.dtype != np.dtype(dtype):
        raise ValueError(f"{name}: {tensor.dtype} {list(tensor.shape)} is not what it must be")
    return tensor


def read_tensor(tensors: StoredTensors, name: str, dtype: str) -> NDArray[Any]:
    """Return a tensor of the stated type, checked."""
    require_type(tensors, name, dtype)
    return tensors[name]
