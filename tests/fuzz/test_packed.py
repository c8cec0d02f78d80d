"""Packed files that are wrong anywhere: all readers refuse them, or read the same network."""

from __future__ import annotations

from base64 import b64decode
from collections import Counter, deque
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from apot_export.artifacts.packed import PackedNetwork, load_packed
from apot_export.downstream import DownstreamNetwork
from apot_export.errors import ApotExportError, PackedFileError
from apot_export.network import CodedLayer
from apot_export.network.logits import compare_logits, expected_logits
from tests.support.fuzzing import run_examples, scratch
from tests.support.javascript import results
from tests.support.malformed_networks import both_readers
from tests.support.packed_parts import changed_file, is_small

OUTCOMES: Counter[str] = Counter()
EXAMPLES = 600
LAST: deque[tuple[bytes, dict[str, bytes] | None]] = deque(maxlen=EXAMPLES)
"""The last files, and the weights of those that were read."""


def read_lazily(path: Path) -> PackedNetwork | None:
    try:
        return load_packed(path, lazy=True).check()
    except PackedFileError:
        return None


def require_same(product: PackedNetwork, other: DownstreamNetwork) -> None:
    """Hold layers and results of the two readers against each other."""
    assert product.layers.keys() == other.layers.keys()
    for name, layer in product.layers.items():
        assert other.weights(name).tobytes() == layer.weights().tobytes(), name
        if isinstance(layer, CodedLayer):
            np.testing.assert_array_equal(other.layers[name].codes, layer.codes, err_msg=name)
    network = product.network
    if is_small(network.shapes):
        images = np.full((1, *network.input_shape), 0.5, np.float32)
        try:
            expected = expected_logits(network, images, {})
        except ApotExportError:
            return
        if np.isfinite(expected.logits).all() and np.isfinite(expected.allowed).all():
            found = compare_logits([lambda: expected], {1: other.run(images)})
            assert not found.wrong, found.offenders


@given(st.data())
def check_that_readers_of_packed_files_agree(data: st.DataObject) -> None:
    content = changed_file(data)
    with np.errstate(all="ignore"):  # of numbers that nobody trained
        product, other = both_readers(scratch(), content)
        lazy = read_lazily(scratch() / "model.apot.safetensors")
        OUTCOMES["refused" if product is None else "read"] += 1
        assert (product is None) == (other is None) == (lazy is None)
        if product is not None and other is not None:
            require_same(product, other)
        layers = product.layers.items() if product else ()
        weights = {name: layer.weights().tobytes() for name, layer in layers}
        LAST.append((content, weights if product else None))


def test_readers_of_packed_files_agree(tmp_path: Path) -> None:
    OUTCOMES.clear()
    run_examples(check_that_readers_of_packed_files_agree, EXAMPLES)
    assert min(OUTCOMES["read"], OUTCOMES["refused"]) > 100, OUTCOMES
    files = [tmp_path / str(number) for number in range(len(LAST))]
    for file, (content, _) in zip(files, LAST, strict=True):
        file.write_bytes(content)
    for file, (_, weights), result in zip(files, LAST, results(files), strict=True):
        if "not apot-packed 1" in result.get("error", ""):
            continue  # the reader in JavaScript reads the newer versions
        assert ("error" in result) == (weights is None), (file, result)
        if weights is not None:
            found = {name: layer["weights"] for name, layer in result["found"]}
            assert {name: b64decode(found[name]) for name in found} == weights, file
