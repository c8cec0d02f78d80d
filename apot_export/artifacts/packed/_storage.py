"""How a layer's codes lie in the file: as they are, as digits, or entropy-coded (FORMAT.md, 3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts import strict_json
from apot_export.artifacts.packed import _digits, _rans
from apot_export.artifacts.packed._stored import StoredTensors
from apot_export.network.bitpack import unpack
from apot_export.network.codebook import storage_bytes
from apot_export.network.layers import CodedLayer, EncodedCodes, Shape

_DIGITS, _ENTROPY = "digits", "entropy"
_WORTHWHILE = 160
"""Bytes that another storage must save: what describes and aligns it takes about as many."""

_LOOKED_AT = 4096
"""Codes at the start of a layer that show how many of its codes occur; a multiple of eight."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A layer's codes as the file holds them."""

    content: NDArray[np.uint8]
    storage: dict[str, list[int]] | None
    """The member of the layer's description; None for the bit stream, which is the default."""


def stored_codes(layer: CodedLayer, *, plain: bool, compress: bool) -> Written:
    """Choose the smallest storage of a layer's codes.

    Args:
        layer: The layer.
        plain: Keep the bit stream, which the integer program reads.
        compress: Entropy coding, too, may be chosen.
    """
    best = Written(content=layer.packed, storage=None)
    if plain:
        return best
    bits, count = layer.codebook.bits, math.prod(layer.shape)
    if not compress and not _may_be_digits(best.content, bits, count):
        return best
    codes = layer.codes
    used = np.flatnonzero(np.bincount(codes.reshape(-1))).tolist()
    if _digits.LEAST_BASE <= len(used) <= _digits.MOST_BASE:
        size = _digits.digit_bytes(len(used), count)
        if size + _WORTHWHILE <= best.content.size:
            best = Written(content=_digits.encode_digits(codes, used), storage={_DIGITS: used})
    if compress:
        stream, coding = _rans.encode(codes, bits)
        readable = _rans.problem(stream.size, bits, codes.size, coding) is None
        if readable and stream.size + _WORTHWHILE <= best.content.size:
            best = Written(content=stream, storage={_ENTROPY: [coding.precision, coding.lanes]})
    return best


def _may_be_digits(packed: NDArray[np.uint8], bits: int, count: int) -> bool:
    """Tell from some of a layer's codes whether it is worth while to look at all of them."""
    few = min(count, _LOOKED_AT)
    used = np.unique(unpack(packed[: storage_bytes((few,), bits)], bits, few)).size
    if used > _digits.MOST_BASE:
        return False
    return _digits.digit_bytes(max(used, _digits.LEAST_BASE), count) < packed.size


def found_codes(
    layer: str, storage: Any, tensors: StoredTensors, shape: Shape, bits: int
) -> Callable[[], NDArray[np.uint8]]:
    """Check what is said of a layer's codes, and return a function that reads and packs them.

    It is `EncodedCodes` where they are not stored bit-packed. Nothing of them is read yet.

    Raises:
        ValueError: The storage is unknown, or no tensor of this type and size has such codes.
    """
    name, count = f"{layer}.codes", math.prod(shape)
    content = tensors.unread(name)
    if content.dtype != np.uint8 or content.ndim != 1:
        raise ValueError(f"{name}: {content.dtype} {list(content.shape)} is not what it must be")
    if storage is None:
        _require_size(name, content, storage_bytes(shape, bits))
        return tensors.deferred(name, lambda packed: _without_surplus(packed, bits, count))
    if _DIGITS in strict_json.mapping(name, storage):
        (listed,) = strict_json.fields(name, storage, _DIGITS)
        used = strict_json.integers(name, listed, most=(1 << bits) - 1)
        if sorted(set(used)) != list(used) or not (
            _digits.LEAST_BASE <= len(used) <= _digits.MOST_BASE
        ):
            raise ValueError(f"{name}: the codes {list(used)} are not 2 to 16 ascending ones")
        _require_size(name, content, _digits.digit_bytes(len(used), count))
        decode = tensors.deferred(
            name, lambda found: _digits.decode_digits(found, used, bits, count)
        )
        return EncodedCodes(decode=decode, bits=bits, stored_bytes=content.size)
    (pair,) = strict_json.fields(name, storage, _ENTROPY)
    precision, lanes = strict_json.array(name, pair)
    coding = _rans.Coding(
        precision=strict_json.integer(name, precision, _rans.LEAST_PRECISION, _rans.MOST_PRECISION),
        lanes=strict_json.integer(name, lanes, least=1),
    )
    if problem := _rans.problem(content.size, bits, count, coding):
        raise ValueError(f"{name}: {problem}")
    decode = tensors.deferred(name, lambda found: _rans.decode(found, bits, count, coding))
    return EncodedCodes(decode=decode, bits=bits, stored_bytes=content.size)


def _without_surplus(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Return a bit stream whose filling bits are zero."""
    tail = (count - 1) % 8 + 1
    unpack(packed[(count - tail) * bits // 8 :], bits, tail)
    return packed


def _require_size(name: str, content: NDArray[Any], size: int) -> None:
    if content.shape != (size,):
        raise ValueError(f"{name}: {content.dtype} {list(content.shape)} is not what it must be")
