"""The container (1): a safetensors file with checksums and boundaries."""

from __future__ import annotations

import json
import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._budget import JSON_BYTES, JSON_VALUES, Budget
from ._members import TENSOR, members, parse, require

_PREFIX = b'{"__metadata__":{"header_crc32":"'
_LONGEST_HEADER = 2**26
_ALIGNED_BYTES, _BOUNDARY = 16384, 64
_DTYPES: dict[str, np.dtype[Any]] = {"U8": np.dtype("u1"), "F32": np.dtype("<f4")}
_VERSIONS = ("1", "2", "3")


def read_container(
    content: bytes, budget: Budget
) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Return metadata and tensors of a file, having checked every byte of it."""
    header, data = _read_header(content, budget)
    metadata = header.pop("__metadata__")
    require(all(type(text) is str for text in metadata.values()), "metadata must be strings")
    version = metadata.get("format_version")
    fine = metadata.get("format") == "apot-packed" and version in _VERSIONS
    found = f"{metadata.get('format')!r} {version!r}"
    require(fine, f"this reader knows apot-packed {' and '.join(_VERSIONS)}, not {found}")
    missing = {"network", "provenance", "checksums"} - metadata.keys()
    require(not missing, f"the metadata lack {missing}")
    for name in ("provenance", *({"interface"} & metadata.keys())):
        parse(metadata[name], name)
    for name, entry in header.items():
        members(entry, f"tensor {name}", TENSOR)
    tensors: dict[str, NDArray[Any]] = {}
    checksums, position = metadata["checksums"], 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, where = _DTYPES[entry["dtype"]], f"tensor {name}"
        begin, end = entry["data_offsets"]
        size = end - begin
        fine = begin == position and size == math.prod(entry["shape"]) * dtype.itemsize
        require(fine and end <= len(data), f"{where} does not fit the data: the file is truncated")
        position = end
        if name.startswith("_padding."):
            fine = dtype.itemsize == 1 and size < _BOUNDARY and not any(data[begin:end])
            require(fine, f"{where} is no padding of up to 63 zeros")
            continue
        boundary = _BOUNDARY if size >= _ALIGNED_BYTES else dtype.itemsize
        require(begin % boundary == 0, f"{where} is off its boundary")
        stated, checksums = checksums[:8], checksums[8:]
        fine = stated == f"{zlib.crc32(data[begin:end]):08x}"
        require(fine, f"{where} is damaged: its checksum is wrong")
        tensors[name] = np.frombuffer(data[begin:end], dtype).reshape(entry["shape"])
        require(np.isfinite(tensors[name]).all(), f"{where} holds a NaN or an infinity")
    require(position == len(data), "there are bytes behind the last tensor")
    require(not checksums, "there are more checksums than tensors")
    fine = "integer" not in tensors or [*tensors][-1] == "integer"
    require(fine, "the tensor integer is not the last one")
    return metadata, tensors


def _read_header(content: bytes, budget: Budget) -> tuple[dict[str, Any], memoryview]:
    require(content[8:41] == _PREFIX, "this is no packed file")
    length = int.from_bytes(content[:8], "little")
    fine = length <= min(_LONGEST_HEADER, len(content) - 8) and (8 + length) % _BOUNDARY == 0
    require(fine, f"a header of {length} bytes: the file is truncated or damaged")
    budget.check(JSON_BYTES, length, "the header")
    header = content[8 : 8 + length]
    checksum = b'%08x"' % zlib.crc32(header[:33] + b"00000000" + header[41:])
    require(header[33:42] == checksum, "the header is damaged: its checksum is wrong")
    budget.check(JSON_VALUES, sum(map(header.count, (b",", b"[", b"{"))), "the header")
    fine = header.isascii() and header.rstrip(b" ").endswith(b"}")
    require(fine, "the header is no JSON in ASCII with blanks behind it")
    parsed = parse(header.decode("ascii"), "the header")
    json.dumps(parsed, ensure_ascii=False).encode()  # refuses surrogates without a partner
    return parsed, memoryview(content)[8 + length :]
