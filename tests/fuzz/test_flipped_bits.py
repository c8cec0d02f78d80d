"""Every single changed bit of the embedded export's packed file is found, by all three readers.

Each reader reads the file with one bit of the header in 9 changed, and one in 83 of the tensors.
For all other bits of the tensors it is their checksums that are computed. `python -m tests.fuzz
bits` has all readers read the file with every single bit changed.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import pytest

from apot_export import downstream
from apot_export.artifacts.directory import PACKED_MODEL
from apot_export.artifacts.packed import load_packed
from apot_export.errors import PackedFileError
from conformance.files import unseal
from tests.support.commands import EXPORT
from tests.support.format_vectors import file_bytes
from tests.support.javascript import READER, node

PROGRAM = """
import { readFileSync } from "node:fs";
import { readPacked } from READER;
const [file, ...ranges] = process.argv.slice(1);
const content = new Uint8Array(readFileSync(file));
const missed = [];
for (const range of ranges) {
  const [begin, end, step] = range.split(":").map(Number);
  for (let bit = begin; bit < end; bit += step) {
    content[bit >> 3] ^= 1 << (bit & 7);
    try {
      readPacked(content);
      missed.push(bit);
    } catch {}
    content[bit >> 3] ^= 1 << (bit & 7);
  }
}
console.log(JSON.stringify(missed));
"""
READERS: dict[str, Callable[[Path], object]] = {
    "load_packed": load_packed,
    "lazy": lambda path: load_packed(path, lazy=True).check(),
    "downstream": downstream.load,
}


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)


def missed(read: Callable[[Path], object], content: bytes, bits: Iterable[int]) -> list[int]:
    """Return the bits without whose right value a reader reads a file."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PACKED_MODEL
        path.write_bytes(content)
        with path.open("r+b", buffering=0) as file:  # a new file each time takes ten times as long
            for bit in bits:
                place = bit >> 3
                os.pwrite(file.fileno(), bytes([content[place] ^ 1 << (bit & 7)]), place)
                with suppress(PackedFileError, ValueError):
                    read(path)
                    found.append(bit)
                os.pwrite(file.fileno(), content[place : place + 1], place)
    return found


def missed_in_javascript(path: Path, ranges: Iterable[range]) -> list[int]:
    program = PROGRAM.replace("READER", json.dumps(READER.as_uri()))
    stated = [f"{one.start}:{one.stop}:{one.step}" for one in ranges]
    command = [node(), "--input-type=module", "-e", program, str(path), *stated]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[int] = json.loads(done.stdout)
    return found


def ranges_of(content: bytes, in_header: int, in_data: int) -> tuple[range, range]:
    """Return every so-manieth bit of a file's header, and of its tensors."""
    _, data = unseal(content)
    start = 8 * (len(content) - len(data))
    return range(0, start, in_header), range(start, 8 * len(content), in_data)


@pytest.fixture
def packed_path(exported: Path) -> Path:
    return exported / EXPORT / PACKED_MODEL


@pytest.mark.parametrize("reader", READERS)
def test_readers_find_every_changed_bit_of_a_small_file(tmp_path: Path, reader: str) -> None:
    content = file_bytes()
    assert missed(READERS[reader], content, range(8 * len(content))) == []
    path = tmp_path / PACKED_MODEL
    path.write_bytes(content + b"\0")
    for size in (len(content) + 1, *reversed(range(len(content)))):
        os.truncate(path, size)
        with pytest.raises((PackedFileError, ValueError)):
            READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
def test_readers_find_changed_bits(packed_path: Path, reader: str) -> None:
    content = packed_path.read_bytes()
    for bits in ranges_of(content, 9, 83):
        assert len(bits) > 1000
        assert missed(READERS[reader], content, bits) == []


def test_the_reader_in_javascript_finds_changed_bits(packed_path: Path) -> None:
    ranges = ranges_of(packed_path.read_bytes(), 9, 83)
    assert missed_in_javascript(packed_path, ranges) == []


def test_every_bit_of_a_tensor_changes_its_checksum(packed_path: Path) -> None:
    content = packed_path.read_bytes()
    header, data = unseal(content)
    checksums = header.pop("__metadata__")["checksums"]
    named = {name: entry["data_offsets"] for name, entry in header.items() if name[0] != "_"}
    bits = 0
    for number, (begin, end) in enumerate(sorted(named.values())):
        tensor = data[begin:end]
        stated = int(checksums[8 * number :][:8], 16)
        assert zlib.crc32(tensor) == stated
        for bit in range(8 * len(tensor)):
            assert zlib.crc32(flipped(tensor, bit)) != stated
        bits += 8 * len(tensor)
    assert bits == 8 * len(data)
