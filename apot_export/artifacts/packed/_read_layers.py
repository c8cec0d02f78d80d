"""Read the layers of a packed file: codebooks, codes, sign vectors and floats (FORMAT.md, 2, 3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts import strict_json
from apot_export.artifacts.packed import _digits, _rans
from apot_export.artifacts.packed._container import StoredTensors, unexpected
from apot_export.network import CodedNetwork
from apot_export.network.bitpack import unpack
from apot_export.network.codebook import MAXIMUM_DENOMINATOR, MAXIMUM_LEVEL, Codebook, storage_bytes
from apot_export.network.layers import (
    ActivationQuantizer,
    CodedLayer,
    EncodedCodes,
    FloatLayer,
    Layer,
    PlaneLayer,
)
from apot_export.network.planes import Planes, Shape, summed_terms

PARAMETERS = "parameters"
INTEGER = "integer"
"""The tensor of the integer program: the last one, where there is one."""
NEUTRAL = {"scale": 1.0, "bias": 0.0}
"""What a `ScaleBias` without the attribute scales or adds."""
USUAL_COUNT_BITS = 3
"""Bits of the number of a group's sign vectors, where a file does not state them."""
DIGITS, ENTROPY = "digits", "entropy"
"""Storages of codes beside the bit stream."""


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


def is_of_version_3(network: CodedNetwork) -> bool:
    """Tell whether a network has what version 3 of the format added."""
    elementary = all(network.is_elementary(node) for node in network.nodes)
    scaled = any(
        isinstance(n, CodedLayer) and n.scales is not None for n in network.layers.values()
    )
    return bool(network.further_outputs) or not elementary or scaled


class Parameters:
    """The small numbers of the tensor `parameters`, of which layers and nodes take runs."""

    def __init__(self, tensors: StoredTensors, version: str) -> None:
        """Take runs as a version of the format states them."""
        self._numbers: NDArray[Any] = np.empty(0, dtype="<f4")
        self._runs: list[tuple[int, int]] = []
        self._version = version
        if PARAMETERS in tensors:
            self._numbers = tensors.of_type(PARAMETERS, "<f4")
            if self._numbers.ndim != 1:
                raise unexpected(PARAMETERS, self._numbers)

    def take(self, where: str, stated: Any, count: int | None = None) -> NDArray[Any]:
        """Return the stated run `[begin, end]`, of `count` numbers where that is known.

        Version 1 states `[count]`, or nothing where the count is known: each run begins where the
        one before ends.
        """
        if self._version != "1":
            begin, end = strict_json.integers(where, stated)
        else:
            if count is None:
                (length,) = strict_json.integers(where, stated)
            elif stated is None:
                length = count
            else:
                raise ValueError(f"{where}: a file of version 1 states no run of {PARAMETERS}")
            begin = self._runs[-1][1] if self._runs else 0
            end = begin + length
        if not begin <= end <= self._numbers.size or count not in {None, end - begin}:
            needs = "" if count is None else f", which has {count}"
            raise ValueError(
                f"{where}: numbers {begin} to {end} of {self._numbers.size} {PARAMETERS}{needs}"
            )
        self._runs.append((begin, end))
        return self._numbers[begin:end]

    def require_version_of(self, network: CodedNetwork) -> None:
        """Raise `ValueError` where a file of an older version has what version 3 added."""
        if self._version in {"1", "2"} and is_of_version_3(network):
            raise ValueError(
                f"version {self._version} has no such operation, no scales of channels, or one "
                "output"
            )

    def require_end(self) -> None:
        """Raise `ValueError` unless every number was taken exactly once."""
        position = 0
        for begin, end in [*sorted(self._runs), (self._numbers.size,) * 2]:
            if begin != position:
                raise ValueError(f"{PARAMETERS}: a run ends at {position}, the next is at {begin}")
            position = end


def read_layer(
    name: str,
    description: Any,
    codebooks: list[Codebook],
    tensors: StoredTensors,
    parameters: Parameters,
) -> Layer:
    """Read a layer; its codes or float weights stay unread until they are asked for."""
    kind = strict_json.mapping(name, description).get("kind")
    if kind == "float":
        strict_json.fields(name, description, "kind")
        tensor = f"{name}.weight"
        shape = tensors.unread(tensor, "<f4").shape
        return FloatLayer(name=name, stored=lambda: tensors[tensor], stated_shape=shape)
    if kind == "planes":
        return PlaneLayer(name=name, planes=_planes(name, description, tensors, parameters))
    _, extents, book, step, alpha, activation, storage, values, scales = strict_json.members(
        name,
        description,
        ("kind", "shape", "codebook", "step"),
        {"alpha": None, "activation": None, "storage": None, "values": None, "scales": None},
    )
    if kind != "coded":
        raise ValueError(f"{name}: unknown kind {kind!r}")
    codebook = _chosen(name, codebooks, book)
    shape = _weight_shape(name, extents)
    codes = _stored_codes(f"{name}.codes", storage, tensors, shape, codebook.bits)
    return CodedLayer(
        name=name,
        shape=shape,
        stored=codes,
        codebook=codebook,
        step=strict_json.number(name, step),
        values=parameters.take(name, values, 1 << codebook.bits),
        alpha=None if alpha is None else strict_json.number(name, alpha),
        scales=None if scales is None else parameters.take(name, scales, shape[0]),
        activation=None if activation is None else _activation(name, activation, codebooks),
    )


def _weight_shape(name: str, extents: Any) -> Shape:
    shape = strict_json.integers(name, extents, least=1)
    if len(shape) not in {2, 4}:
        raise ValueError(f"{name}: weights of {len(shape)} axes")
    return shape


def _stored_codes(
    name: str, storage: Any, tensors: StoredTensors, shape: Shape, bits: int
) -> Callable[[], NDArray[np.uint8]]:
    """Check the description of a layer's codes; return a function that reads and packs them."""
    content, count = tensors.unread(name, "u1"), math.prod(shape)
    if content.ndim != 1:
        raise unexpected(name, content)
    if storage is None:
        _require_size(name, content, storage_bytes(shape, bits))
        return tensors.deferred(name, lambda packed: _without_surplus(packed, bits, count))
    if DIGITS in strict_json.mapping(name, storage):
        (listed,) = strict_json.fields(name, storage, DIGITS)
        used = strict_json.integers(name, listed, most=(1 << bits) - 1)
        if sorted(set(used)) != list(used) or not (
            _digits.LEAST_BASE <= len(used) <= _digits.MOST_BASE
        ):
            raise ValueError(f"{name}: the codes {list(used)} are not 2 to 16 ascending ones")
        _require_size(name, content, _digits.digit_bytes(len(used), count))
        decode = tensors.deferred(
            name, lambda found: _digits.decode_digits(found, used, bits, count)
        )
    else:
        (pair,) = strict_json.fields(name, storage, ENTROPY)
        precision, lanes = strict_json.array(name, pair)
        coding = _rans.Coding(
            precision=strict_json.integer(
                name, precision, _rans.LEAST_PRECISION, _rans.MOST_PRECISION
            ),
            lanes=strict_json.integer(name, lanes, least=1),
        )
        if problem := _rans.problem(content.size, bits, count, coding):
            raise ValueError(f"{name}: {problem}")
        decode = tensors.deferred(name, lambda found: _rans.decode(found, bits, count, coding))
    return EncodedCodes(decode=decode, bits=bits, stored_bytes=content.size)


def _without_surplus(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Return a bit stream after checking that its filling bits are zero."""
    tail = (count - 1) % 8 + 1
    unpack(packed[(count - tail) * bits // 8 :], bits, tail)
    return packed


def _require_size(name: str, content: NDArray[Any], size: int) -> None:
    if content.size != size:
        raise ValueError(f"{name}: {content.size} bytes, expected {size}")


def _planes(name: str, description: Any, tensors: StoredTensors, parameters: Parameters) -> Planes:
    _, extents, size, width, position_major, summands, run = strict_json.members(
        name,
        description,
        ("kind", "shape", "group_size"),
        {
            "count_bits": USUAL_COUNT_BITS,
            "position_major": False,
            "terms": 0,
            "coordinates": None,
        },
    )
    shape = _weight_shape(name, extents)
    group_size = strict_json.integer(name, size, least=1)
    if strict_json.boolean(name, position_major) and len(shape) != 4:  # noqa: PLR2004 - N C H W
        raise ValueError(f"{name}: groups of kernel positions in weights {list(shape)}")
    count_bits = strict_json.integer(name, width, least=1, most=8)
    columns = strict_json.integer(name, summands, least=0)
    groups, rest = divmod(math.prod(shape), group_size)
    if rest:
        raise ValueError(f"{name}: groups of {group_size} do not divide {list(shape)}")
    content = tensors.of_type(f"{name}.planes", "u1")
    head = (groups * count_bits + 7) // 8
    if content.ndim != 1 or content.size < head:
        raise unexpected(f"{name}.planes", content)
    counts = unpack(content[:head], count_bits, groups).astype(np.uint8)
    bases = int(counts.sum(dtype=np.int64))
    packed = content[head:]
    if packed.size != (bases * group_size + 7) // 8:
        raise ValueError(f"{name}.planes: {packed.size} bytes for {bases} bases")
    unpack(packed[-1:], 1, bases * group_size - (packed.size - 1) * 8 if packed.size else 0)
    terms = None
    if columns:
        if run is not None:
            raise ValueError(f"{name}: both terms and coordinates")
        terms = np.zeros((0, columns), dtype=np.uint8)
        if bases:
            terms = tensors.of_type(f"{name}.terms", "u1")
        if terms.shape != (bases, columns):
            raise ValueError(f"{name}: terms {list(terms.shape)}")
    return Planes(
        shape=shape,
        group_size=group_size,
        position_major=position_major,
        counts=counts,
        packed=packed,
        coordinates=parameters.take(name, run, bases) if terms is None else summed_terms(terms),
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
        steps = strict_json.integer(name, steps, least=1, most=MAXIMUM_DENOMINATOR)
    return ActivationQuantizer(
        codebook=codebook,
        alpha=rounded,
        input_denominator=None if steps == codebook.denominator else steps,
    )


def _chosen(name: str, codebooks: list[Codebook], index: Any) -> Codebook:
    return codebooks[strict_json.integer(name, index, most=len(codebooks) - 1)]
