"""FORMAT.md is executed: each vector by the product, the complete file also by a reader of its own.

The functions whose names begin with `mini_` follow the text of FORMAT.md and use nothing of
apot_export.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors

from apot_export.artifacts.packed import FORMAT_VERSION, load_packed
from apot_export.artifacts.packed._digits import decode_digits, encode_digits
from apot_export.artifacts.packed._rans import Coding, decode, encode
from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.network import (
    ActivationQuantizer,
    CodedLayer,
    Convolution,
    Flatten,
    Layer,
    Network,
    Node,
    QuantizeActivation,
    ScaleBias,
)
from apot_export.network.bitpack import pack, unpack
from apot_export.network.codebook import apot
from apot_export.network.oracle import quantize_activation, run, shift_add_product
from apot_export.network.planes import Planes, pack_counts
from tests.support.format_vectors import (
    BLOCKS,
    SPECIFICATION,
    Vector,
    codebook,
    file_bytes,
    floats,
    integers,
    packed_bytes,
    vectors,
)

# --- every kind of vector -------------------------------------------------------------------------


def test_every_vector_of_the_specification_is_executed() -> None:
    counts = {kind: sum(kind == found for found, _ in BLOCKS) for kind, _ in BLOCKS}
    assert counts == {
        "crc32": 1, "pack": 8, "codebook": 5, "quantizer": 5, "file": 1, "layer": 1, "run": 1,
        "planes": 1, "digits": 1, "entropy": 1, "operation": 19,
    }  # fmt: skip
    assert f"format version {FORMAT_VERSION}" in SPECIFICATION
    assert [int(vector["bits"][0]) for vector in vectors("pack")] == [1, 2, 3, 4, 5, 8, 9, 16]


def test_checksum() -> None:
    (vector,) = vectors("crc32")
    assert f"{zlib.crc32(vector['text'][0].encode()):08x}" == vector["crc32"][0]


@pytest.mark.parametrize("vector", vectors("pack"), ids=lambda vector: vector["bits"][0])
def test_pack(vector: Vector) -> None:
    bits, codes = int(vector["bits"][0]), integers(vector["codes"])
    packed = bytes.fromhex("".join(vector["bytes"]))
    array = np.array(codes, dtype=np.uint8 if bits <= 8 else np.uint16)
    assert pack(array, bits).tobytes() == packed
    assert unpack(np.frombuffer(packed, dtype=np.uint8), bits, len(codes)).tolist() == codes
    assert mini_codes(packed, bits, len(codes)) == codes


@pytest.mark.parametrize("vector", vectors("codebook"), ids=lambda vector: vector["tables"][0])
def test_codebook(vector: Vector) -> None:
    book, levels = codebook(vector), integers(vector["levels"])
    assert book.bits == int(vector["bits"][0])
    assert book.levels.tolist() == levels
    codes = np.arange(1 << book.bits, dtype=np.uint8).reshape(-1, 1)
    products = shift_add_product(np.array([[1], [5]], dtype=np.int64), codes, book)
    assert products.tolist() == [levels, [5 * level for level in levels]]
    description = {"tables": book.tables, "signed": book.signed}
    assert [mini_level(description, code) for code in range(1 << book.bits)] == levels


@pytest.mark.parametrize("vector", vectors("quantizer"), ids=lambda vector: vector["alpha"][0])
def test_quantizer(vector: Vector) -> None:
    (steps,) = integers(vector.get("input_denominator", vector["denominator"]))
    quantizer = ActivationQuantizer(
        codebook=codebook(vector), alpha=floats(vector["alpha"])[0], input_denominator=steps
    )
    assert quantizer.index_scale == floats(vector["scale"])[0]
    assert quantizer.table.tolist() == integers(vector["table"])
    levels = quantize_activation(floats(vector["inputs"]), quantizer)
    assert levels.tolist() == integers(vector["levels"])


@pytest.mark.parametrize("vector", vectors("planes"))
def test_planes(vector: dict[str, list[str]]) -> None:
    shape = tuple(json.loads(vector["shape"][0]))
    size = int(vector["group_size"][0])
    counts = unpack(
        packed_bytes(vector["counts"]), int(vector["count_bits"][0]), math.prod(shape) // size
    )
    planes = Planes(
        shape=shape,
        group_size=size,
        position_major=vector["position_major"] == ["true"],
        counts=counts.astype(np.uint8),
        packed=packed_bytes(vector["planes"]),
        coordinates=floats(vector["coordinates"]),
    )
    assert pack_counts(planes.counts)[0].tobytes() == packed_bytes(vector["counts"]).tobytes()
    assert planes.weights().reshape(-1).tobytes() == floats(vector["values"]).tobytes()


@pytest.mark.parametrize("vector", vectors("digits"))
def test_digits(vector: Vector) -> None:
    bits, used, codes = (integers(vector[key]) for key in ("bits", "digits", "codes"))
    stored = packed_bytes(vector["bytes"])
    assert encode_digits(np.array(codes, dtype=np.uint8), used).tobytes() == stored.tobytes()
    assert decode_digits(stored, used, bits[0], len(codes)).tolist() == codes
    assert mini_digits(stored.tobytes(), used, len(codes)) == codes


@pytest.mark.parametrize("vector", vectors("entropy"))
def test_entropy(vector: Vector) -> None:
    bits, precision, lanes, turns = (
        int(vector[key][0]) for key in ("bits", "precision", "lanes", "turns")
    )
    codes, stored = integers(vector["codes"]), packed_bytes(vector["bytes"])
    coding = Coding(precision=precision, lanes=lanes)
    assert coding.turns(bits, len(codes)) == turns
    made, _ = encode(np.array(codes, dtype=np.uint8), bits, coding)
    assert made.tobytes() == stored.tobytes()
    assert decode(stored, bits, len(codes), coding).tolist() == codes
    assert mini_entropy(stored.tobytes(), bits, precision, lanes, len(codes)) == codes


@pytest.mark.parametrize(("bits", "precision"), [(1, 4), (2, 5), (3, 4), (4, 8), (5, 9), (9, 12)])
def test_a_reader_written_from_the_text_decodes_streams(bits: int, precision: int) -> None:
    rng = np.random.default_rng(bits)
    used = min(1 << bits, 1 << precision)
    codes = (rng.geometric(min(0.7, 3 / used), size=700) - 1) % used
    array = codes.astype(np.uint8 if bits <= 8 else np.uint16)
    for lanes in (1, 7, 400):
        stream, _ = encode(array, bits, Coding(precision=precision, lanes=lanes))
        found = mini_entropy(stream.tobytes(), bits, precision, lanes, codes.size)
        assert found == codes.tolist()


# --- the complete file ----------------------------------------------------------------------------


def tiny_network() -> Network[Layer]:
    """Build the network that section 7.4 describes."""
    magnitudes = np.array([0, 1, 0.5, 0.125, 0.25, 1.25, 0.75, 0.375], dtype=np.float32)
    layer = CodedLayer(
        name="conv",
        shape=(2, 2, 1, 1),
        stored=np.array([0xD7, 0x68], dtype=np.uint8),
        codebook=apot(3, signed=True),
        step=0.125,
        values=np.concatenate([magnitudes, -magnitudes]),
        alpha=1.25,
        activation=ActivationQuantizer(codebook=apot(2, signed=False), alpha=np.float32(2)),
    )
    scale = ScaleBias(
        scale=np.array([0.0625, 0.125], dtype=np.float32),
        bias=np.array([0.25, -1], dtype=np.float32),
    )
    quantize = QuantizeActivation(layer="conv")
    return Network[Layer](
        nodes=(
            Node(name="conv.levels", inputs=("image",), operation=quantize),
            Node(name="conv.sums", inputs=("conv.levels",), operation=Convolution(layer="conv")),
            Node(name="conv", inputs=("conv.sums",), operation=scale),
            Node(name="logits", inputs=("conv",), operation=Flatten()),
        ),
        layers={"conv": layer},
        input="image",
        input_shape=(2, 1, 1),
        output="logits",
    )


def test_writer_produces_the_file() -> None:
    assert packed_file_bytes(tiny_network(), {"tool": "example"}) == file_bytes()


def test_reader_reads_the_file_and_computes_every_value(tmp_path: Path) -> None:
    path = tmp_path / "model.apot.safetensors"
    path.write_bytes(file_bytes())
    loaded = load_packed(path)
    layer = loaded.network.layers["conv"]
    assert isinstance(layer, CodedLayer)
    (expected,) = vectors("layer")
    assert layer.codes.reshape(-1).tolist() == integers(expected["codes"])
    assert layer.levels().reshape(-1).tolist() == integers(expected["levels"])
    assert layer.weights().reshape(-1).tobytes() == floats(expected["values"]).tobytes()
    (lines,) = vectors("run")
    image = floats(lines.pop("input")).reshape(1, 2, 1, 1)
    seen: dict[str, np.ndarray[Any, Any]] = {}
    run(loaded.network, image, observe=seen.__setitem__)
    assert list(seen) == list(lines)
    for name, words in lines.items():
        exact = integers(words) if seen[name].dtype == np.int64 else floats(words).tolist()
        assert seen[name].reshape(-1).tolist() == exact, name


def test_the_annotation_of_the_file_covers_every_byte() -> None:
    rows = re.findall(r"^\| 0x(\w+) to 0x(\w+) \| (.*) \|$", SPECIFICATION, re.MULTILINE)
    ends = [int(last, 16) + 1 for _, last, _ in rows]
    assert [int(first, 16) for first, _, _ in rows] == [0, *ends[:-1]]
    assert ends[-1] == len(file_bytes())
    texts = [file_bytes()[int(first, 16) : int(last, 16) + 1] for first, last, _ in rows]
    assert (
        rows[0][2]
        == f"`L` = {int.from_bytes(texts[0], 'little')} = {hex(int.from_bytes(texts[0], 'little'))}"
    )
    assert rows[1][2] == f"`{texts[1].decode()}`"
    assert rows[2][2] == f"checksum of the header, `{texts[2].decode()}`"
    assert texts[3].endswith(b"}}")
    assert rows[4][2] == f"{texts[4].count(b' ')} blanks"
    names = [re.findall(r"`(.*?)`", note)[0] for _, _, note in rows[5:]]
    assert dict(zip(names, map(len, texts[5:]), strict=True)) == {
        name: tensor.nbytes for name, tensor in load_safetensors(file_bytes()).items()
    }


def test_the_safetensors_library_reads_the_file() -> None:
    tensors = load_safetensors(file_bytes())
    (expected,) = vectors("layer")
    assert tensors["conv.codes"].tolist() == [0xD7, 0x68]
    codes = integers(expected["codes"])
    assert tensors["parameters"][:16][codes].tobytes() == floats(expected["values"]).tobytes()


def mini_codes(packed: bytes, bits: int, count: int) -> list[int]:
    """Read codes as section 3.1 says."""
    padded = packed + bytes(3)
    codes = []
    for number in range(count):
        place, shift = number * bits // 8, number * bits % 8
        window = padded[place] + 256 * padded[place + 1] + 65536 * padded[place + 2]
        codes.append((window >> shift) % 2**bits)
    return codes


def mini_digits(stored: bytes, used: list[int], count: int) -> list[int]:
    """Read codes as section 3.7 says."""
    base = len(used)
    places = next(d for d in range(8, 0, -1) if base**d <= 256)
    assert len(stored) == -(-count // places)
    found = [used[byte // base**i % base] for byte in stored for i in range(places)]
    assert all(code == used[0] for code in found[count:])
    return found[:count]


def mini_entropy(stored: bytes, bits: int, m: int, lanes: int, count: int) -> list[int]:
    """Read codes as section 3.8 says."""
    k = 16 // max(m, bits)
    turns = -(-max(0, count - 16 * lanes // bits) // (k * lanes))
    frequency = struct.unpack_from(f"<{2**bits}H", stored)
    start = [sum(frequency[:c]) for c in range(2**bits)]
    assert sum(frequency) == 2**m
    x = list(struct.unpack_from(f"<{lanes}I", stored, 2 * 2**bits))
    rest = stored[2 * 2**bits + 4 * lanes :]
    words = list(struct.unpack(f"<{len(rest) // 2}H", rest))
    codes = []
    for _ in range(turns):
        for j in range(lanes):
            for _ in range(k):
                slot = x[j] % 2**m
                (c,) = (c for c in range(2**bits) if 0 <= slot - start[c] < frequency[c])
                x[j] = frequency[c] * (x[j] // 2**m) + slot - start[c]
                codes.append(c)
            if x[j] < 2**16:
                x[j] = 2**16 * x[j] + words.pop(0)
            assert 2**16 <= x[j] < 2**32
    assert not words
    assert max(x) < 2**17
    tail = struct.pack(f"<{lanes}H", *(state - 2**16 for state in x))
    return codes + mini_codes(tail, bits, count - len(codes))


def mini_level(book: dict[str, Any], code: int) -> int:
    """Decode a code as sections 3.2 and 3.3 say."""
    magnitude = 0
    for table in book["tables"]:
        magnitude += table[code % len(table)]
        code //= len(table)
    return -magnitude if book["signed"] and code else magnitude


def mini_read(content: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read a container as section 1 says: the network, and the bytes of every tensor."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + length], content[8 + length :]
    assert (8 + length) % 64 == 0
    assert header[:33] == b'{"__metadata__":{"header_crc32":"'
    digits = header[33:41]
    assert int(digits, 16) == zlib.crc32(header.replace(digits, b"00000000", 1))
    entries = json.loads(header)
    metadata = entries.pop("__metadata__")
    assert (metadata["format"], metadata["format_version"]) == ("apot-packed", "2")
    checksums = metadata["checksums"]
    tensors, position = {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        assert begin == position
        assert end - begin == math.prod(entry["shape"]) * {"U8": 1, "F32": 4}[entry["dtype"]]
        position = end
        if name.startswith("_padding."):
            assert data[begin:end] == bytes(end - begin)
        else:
            size = end - begin
            assert begin % (64 if size >= 16384 else {"U8": 1, "F32": 4}[entry["dtype"]]) == 0
            assert int(checksums[:8], 16) == zlib.crc32(data[begin:end])
            checksums = checksums[8:]
            tensors[name] = data[begin:end]
    assert position == len(data)
    assert not checksums
    return json.loads(metadata["network"]), tensors


def test_a_reader_written_from_the_text_alone_decodes_the_file() -> None:
    network, tensors = mini_read(file_bytes())
    layer = network["layers"]["conv"]
    book = network["codebooks"][layer["codebook"]]
    bits = sum(int(math.log2(len(table))) for table in book["tables"]) + book["signed"]
    codes = mini_codes(tensors["conv.codes"], bits, math.prod(layer["shape"]))
    begin, end = layer["values"]
    values = struct.unpack_from(f"<{end - begin}f", tensors["parameters"], 4 * begin)
    (expected,) = vectors("layer")
    assert codes == integers(expected["codes"])
    assert [mini_level(book, code) for code in codes] == integers(expected["levels"])
    decoded = struct.pack(">4f", *(values[code] for code in codes))
    assert decoded.hex() == "".join(expected["values"])
