"""Files of arrays that are wrong anywhere: refused, or the arrays that numpy reads."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from apot_export.datasets._arrays import open_arrays
from apot_export.errors import DatasetError
from tests.support.fuzzing import damaged, run_examples, scratch

OUTCOMES: Counter[str] = Counter()
SHAPE = (1, 2, 3)
CLASSES = 4
TYPES = [
    "<f4",
    ">f4",
    "<f8",
    "<f2",
    "|u1",
    "<i8",
    "<u2",
    "|b1",
    "<c8",
    "|O",
    "<U3",
    "|V3",
    "<M8[s]",
]
EXTENTS = [0, 1, 2, 3, 4, 6, -1, 1 << 31, 1 << 40, 1 << 62, True, 2.0, "2", None]
HEADERS = [
    "{}",
    "[]",
    "{'descr': '<f4'}",
    "(" * 200,
    "{'descr': [('a', '<f4')], 'shape': ()}",
    "\0",
]


def array_file(content: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, content, allow_pickle=False)
    return buffer.getvalue()


def changed_array(data: st.DataObject, content: bytes) -> bytes:
    """Return a file of one array with another header, or with its bytes changed."""
    if data.draw(st.integers(0, 2)) == 0:
        return damaged(data, content)
    length = int.from_bytes(content[8:10], "little")
    header, numbers = content[10 : 10 + length].decode("latin1"), content[10 + length :]
    kind, order = data.draw(st.sampled_from(TYPES)), data.draw(st.booleans())
    shape = data.draw(st.lists(st.sampled_from(EXTENTS), max_size=5))
    stated = {"descr": kind, "fortran_order": order, "shape": tuple(shape)}
    header = data.draw(st.sampled_from([header, repr(stated), repr(stated), *HEADERS])) + "\n"
    size = len(header).to_bytes(2, "little")
    return content[:8] + size + header.encode("latin1") + numbers


def changed_arrays(data: st.DataObject) -> bytes:
    """Return an .npz file that is changed in a few places, most often under right checksums."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "images": rng.random((3, *SHAPE), np.float32),
        "labels": np.arange(3),
        "logits": rng.random((3, CLASSES)),
    }
    members = {f"{name}.npy": array_file(content) for name, content in arrays.items()}
    for _ in range(data.draw(st.integers(0, 2))):
        name = data.draw(st.sampled_from(sorted(members)))
        members[name] = changed_array(data, members[name])
        if data.draw(st.integers(0, 7)) == 0:
            other = data.draw(st.sampled_from(["images", "x.npy", "../images.npy", "labels.npy"]))
            members[other] = members.pop(name)
    buffer = io.BytesIO()
    kind = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    content = buffer.getvalue()
    return damaged(data, content) if data.draw(st.integers(0, 5)) == 0 else content


@given(st.data())
def check_that_arrays_are_those_of_numpy(data: st.DataObject) -> None:
    path = scratch() / "arrays.npz"
    path.write_bytes(changed_arrays(data))
    try:
        found = open_arrays(
            path,
            input_shape=SHAPE,
            output_shape=(CLASSES,),
            normalisation=lambda: None,
            with_logits=True,
        )
    except DatasetError:
        OUTCOMES["refused"] += 1
        return
    OUTCOMES["read"] += 1
    with np.load(path, allow_pickle=False) as arrays:
        images = np.stack([found.dataset.load(index) for index in range(len(found.dataset))])
        np.testing.assert_array_equal(images, arrays["images"])
        np.testing.assert_array_equal(found.logits, arrays["logits"])
        if "labels" in arrays.files:
            np.testing.assert_array_equal(found.dataset.labels, arrays["labels"])


def test_arrays_are_those_of_numpy() -> None:
    OUTCOMES.clear()
    run_examples(check_that_arrays_are_those_of_numpy, 400)
    assert min(OUTCOMES["read"], OUTCOMES["refused"]) > 60, OUTCOMES


HEADER = {"descr": "<f4", "fortran_order": False, "shape": (1, *SHAPE)}
FOUND = {
    "an open bracket": "(" * 200,
    "a text as an extent": repr({**HEADER, "shape": (1, "2")}),
    "a number as an extent": repr({**HEADER, "shape": (2.0,)}),
    "no such type": repr({**HEADER, "descr": "<M8[x]"}),
}
"""Headers of arrays that let numpy raise errors of other kinds."""


def stored(header: str, kind: int = zipfile.ZIP_STORED) -> bytes:
    """Return an .npz file whose images have a header."""
    raw = array_file(np.zeros((1, *SHAPE), np.float32))
    size = len(header).to_bytes(2, "little")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        archive.writestr("images.npy", raw[:8] + size + header.encode() + bytes(24))
    return buffer.getvalue()


def refused(content: bytes) -> None:
    path = scratch() / "arrays.npz"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="cannot be used"):
        open_arrays(path, input_shape=SHAPE, output_shape=(4,), normalisation=lambda: None)


@pytest.mark.parametrize("what", FOUND)
def test_headers_that_numpy_does_not_expect(what: str) -> None:
    refused(stored(FOUND[what] + "\n"))


def test_compressions_that_are_damaged_or_unknown() -> None:
    content = stored(repr(HEADER) + "\n", zipfile.ZIP_LZMA)
    place = content.index(b"images.npy") + len("images.npy")
    refused(content[: place + 12] + bytes([255] * 9) + content[place + 21 :])
    method = content.index(b"PK\x01\x02") + 10
    refused(content[:method] + b"\x07" + content[method + 1 :])
