"""Files that both readers of Python refuse alike; the conformance kit has some for each rule."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apot_export import downstream
from conformance.files import seal, unseal
from tests.support.format_vectors import file_bytes
from tests.support.malformed_networks import both_readers, described, mutate, with_network
from tests.support.packed_files import packed


def read(folder: Path, content: bytes) -> None:
    (folder / "file").write_bytes(content)
    downstream.load(folder / "file")


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    content = file_bytes()
    for index in range(len(content)):
        damaged = bytearray(content)
        damaged[index] ^= 1 << index % 8
        with pytest.raises(ValueError, match=r"\S"):
            read(tmp_path, bytes(damaged))
    for size in (0, 7, 8, 41, 64, len(content) - 1):
        with pytest.raises(ValueError, match=r"no packed file|truncated"):
            read(tmp_path, content[:size])
    with pytest.raises(ValueError, match="behind the last tensor"):
        read(tmp_path, content + b"\0")


@settings(max_examples=400)
@given(st.data())
def test_both_readers_decide_alike(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    product, other = both_readers(folder, with_network(mutate(data, described())))
    assert (product is None) == (other is None)
    if product is not None and other is not None:
        shapes = product.network.shapes
        if max(map(math.prod, shapes.values())) < 1 << 16:
            images = np.full((1, *product.network.input_shape), 0.5, np.float32)
            np.testing.assert_allclose(other.run(images), product.run(images), rtol=1e-4, atol=1e-5)


@settings(max_examples=200)
@given(st.data())
def test_both_readers_decide_alike_about_containers(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    header, tensors = unseal(packed())
    metadata = header.pop("__metadata__")
    mutated = mutate(data, header)
    if isinstance(mutated, dict):
        content = seal({"__metadata__": metadata, **mutated}, tensors)
        product, other = both_readers(tmp_path_factory.mktemp("fuzz"), content)
        assert (product is None) == (other is None)
