"""Checkpoints that name one large part again and again: reading takes time in proportion to them.

What is counted is bytes and keys, not time: a test that hangs fails by the limits of the process.
"""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import pytest
import torch

from apot_export.errors import CheckpointError
from apot_export.original._data import StandIn
from apot_export.original.checkpoint import load_checkpoint
from apot_export.original.reading import in_process, read_container
from apot_export.original.weight_sets import forms_of, weight_sets

EQUAL_HASHES = 2**61 - 1
"""Integers that differ by multiples of it have the same hash."""
LARGE = 1 << 20


def repeated(part: bytes, times: int, *, before: bytes = b"") -> bytes:
    """Return a pickle of a list of what opcodes make, and of a text of a MiB that memo 0 has."""
    text = b"X" + struct.pack("<I", LARGE) + b"a" * LARGE
    return b"\x80\x04" + text + b"q\x000" + before + b"](" + part * times + b"e."


def read(path: Path, content: bytes) -> object:
    path.write_bytes(content)
    with in_process():
        return read_container(path)[0]


def test_keys_of_equal_hashes_are_renamed(tmp_path: Path) -> None:
    keys = [5, *(number * EQUAL_HASHES + 5 for number in range(50, 90))]
    assert len({hash(key) for key in keys}) == 1
    content = read(tmp_path / "a.pth", pickle.dumps(dict.fromkeys(keys)))
    assert isinstance(content, dict)
    assert len(content) == len(keys)
    assert [key for key in content if isinstance(key, int)] == [5]


@pytest.mark.parametrize(
    ("opcodes", "why"),
    [
        (b"h\x00", "asks for more than a file of its size"),  # a text
        (b"}h\x00Ns", "asks for more than a file of its size"),  # a dict with it as a key
        (b"h\x00h\x00\x93", "a global of 2097152 characters"),
        (b"(X\x07\x00\x00\x00storageh\x01h\x00NK\x00tQ", "key has 1048576 characters"),
    ],
)
def test_a_text_is_not_named_without_end(opcodes: bytes, why: str, tmp_path: Path) -> None:
    # Enough to go through more than the 512 MiB that such a file may ask for.
    before = b"ctorch\nFloatStorage\nq\x010"
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path / "a.pth", legacy(repeated(opcodes, 700, before=before)))
    assert why in str(caught.value)


def legacy(content: bytes) -> bytes:
    """Return a file of PyTorch's format before 1.6, in which alone a pickle names storages."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    head = magic + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    return head + content + pickle.dumps([], 2)


def test_arrays_of_many_axes_are_not_multiplied_out(tmp_path: Path) -> None:
    shape = b"(" + b"K\x02" * 100_000 + b"tq\x010"
    array = b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01h\x01"
    array += b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R\x89C\x00tb"
    content = read(tmp_path / "a.pth", repeated(array, 1, before=shape))
    assert isinstance(content, list)
    assert isinstance(content[0], StandIn)
    entry = {"dtype": "F32", "shape": [9] * 100_000, "data_offsets": [0, 4]}
    header = json.dumps({"a": entry}).encode()
    with pytest.raises(CheckpointError, match="100000 axes"):
        read(tmp_path / "a.safetensors", struct.pack("<Q", len(header)) + header + bytes(4))


def test_long_keys_are_no_places_of_weights() -> None:
    state = {"weight": torch.zeros(1)}
    assert [*weight_sets({"a" * 200: state, "b" * 201: state})] == ["a" * 200]


def test_names_of_many_parts_are_cut_a_few_times(tmp_path: Path) -> None:
    name = "a." * 1000 + "weight"
    assert len(forms_of([name])) < 40
    torch.save({name: torch.zeros(2)}, tmp_path / "a.pth")
    assert len(load_checkpoint(tmp_path / "a.pth").state) == 1
