"""The container (1): a safetensors file with checksums and boundaries."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

_PREFIX = b'{"__metadata__":{"header_crc32":"'
_LONGEST_HEADER = 2**26
_ALIGNED_BYTES, _BOUNDARY = 4096, 64


def require(fine: Any, problem: str) -> None:
    """Raise a ValueError that names the problem, unless all is fine."""
    if not fine:
        raise ValueError(problem)


def parse(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON object without repeated names, NaN and infinities (1.2)."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        require(len(dict(pairs)) == len(pairs), "a name occurs twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON that the format allows: {error}") from error
    require(type(value) is dict, f"{where} is no JSON object")
    return dict(value)


def read_container(content: bytes) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Return metadata and tensors of a file, having checked every byte of it."""
    header = _read_header(content)
    metadata = header.pop("__metadata__")
    require(all(type(text) is str for text in metadata.values()), "metadata must be strings")
    version = (metadata.get("format"), metadata.get("format_version"))
    require(version == ("apot-packed", "1"), f"this reader knows apot-packed 1, not {version}")
    missing = {"network", "provenance", "checksums"} - metadata.keys()
    require(not missing, f"the metadata lack {missing}")
    parse(metadata["provenance"], "provenance")
    try:
        tensors = load(content)  # this checks sizes, and that no byte is left over
    except (SafetensorError, TypeError, KeyError) as error:
        raise ValueError(f"safetensors refuses the file: {error}") from error
    contents = {}
    checksums, end = metadata["checksums"], 0
    for name, entry in header.items():
        tensor, where = tensors[name], f"tensor {name}"
        require(entry.keys() == {"dtype", "shape", "data_offsets"}, f"{where} has other members")
        require(entry["dtype"] in {"U8", "F32"}, f"{where} has the dtype {entry['dtype']}")
        begin, end = end, end + tensor.nbytes
        require(entry["data_offsets"] == [begin, end], f"{where} is listed out of order")
        fine = tensor.size > 0 and max(tensor.shape, default=1) < 2**31
        require(fine, f"{where} has the shape {tensor.shape}")
        if name.startswith("_padding."):
            fine = tensor.dtype == np.uint8 and tensor.size < _BOUNDARY and not tensor.any()
            require(fine, f"{where} is no padding of up to 63 zeros")
            continue
        boundary = _BOUNDARY if tensor.nbytes >= _ALIGNED_BYTES else tensor.itemsize
        require(begin % boundary == 0, f"{where} is off its boundary")
        stated, checksums = checksums[:8], checksums[8:]
        fine = stated == f"{zlib.crc32(tensor.tobytes()):08x}"
        require(fine, f"{where} is damaged: its checksum is wrong")
        require(np.isfinite(tensor).all(), f"{where} holds a NaN or an infinity")
        contents[name] = tensor
    require(not checksums, "there are more checksums than tensors")
    fine = "integer" not in header or [*header][-1] == "integer"
    require(fine, "the tensor integer is not the last one")
    return metadata, contents


def _read_header(content: bytes) -> dict[str, Any]:
    require(content[8:41] == _PREFIX, "this is no packed file")
    length = int.from_bytes(content[:8], "little")
    fine = length <= min(_LONGEST_HEADER, len(content) - 8) and (8 + length) % _BOUNDARY == 0
    require(fine, f"a header of {length} bytes: the file is truncated or damaged")
    header = content[8 : 8 + length]
    checksum = b'%08x"' % zlib.crc32(header[:33] + b"00000000" + header[41:])
    require(header[33:42] == checksum, "the header is damaged: its checksum is wrong")
    fine = header.isascii() and header.rstrip(b" ").endswith(b"}")
    require(fine, "the header is no JSON in ASCII with blanks behind it")
    return parse(header.decode("ascii"), "the header")
