"""Reading all weights of a packed file takes the file, the weights, and little beside them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from apot_export.artifacts.packed import load_packed
from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.network import Convolution, FloatLayer, Layer
from tests.support.networks import network_of
from tests.support.packed_files import skewed, stored_network
from tests.support.random_coded_networks import plane_layer

SIZE = 320_000
"""Weights of a layer: what describes it is little beside them."""
SHAPE = (SIZE // 40, 40, 1, 1)

COMPRESSED = "entropy-coded"
TABLES = 10 << 16
"""Bytes that decoding it takes, whatever the size: ten for each value of 16 bits."""


def plane(group_size: int, *, position_major: bool = False) -> Layer:
    shape = (SIZE // 360, 40, 3, 3) if position_major else SHAPE
    return plane_layer("a", shape, group_size, position_major=position_major)


def coded(bits: int) -> Layer:
    name = "ternary" if bits == 2 else "a"
    return stored_network(**{name: skewed(bits, SIZE)}).layers[name]


LAYERS: dict[str, Callable[[], Layer]] = {
    "bit stream": partial(coded, 4),
    "digits": partial(coded, 2),
    COMPRESSED: partial(coded, 4),
    "floats": partial(FloatLayer, name="a", stored=np.ones(SHAPE, np.float32)),
    "sign vectors of small groups": partial(plane, 16),
    "sign vectors of large groups": partial(plane, 400),
    "sign vectors at kernel positions": partial(plane, 20, position_major=True),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_reading_takes_the_file_and_the_weights(kind: str, tmp_path: Path) -> None:
    layer, compress = LAYERS[kind](), kind == COMPRESSED
    layers = [layer, replace(layer, name="other")]
    steps = [(f"{one.name}.out", Convolution(layer=one.name), "image") for one in layers]
    path = tmp_path / "model.apot.safetensors"
    path.write_bytes(
        packed_file_bytes(network_of(layers, steps, (40, 3, 3)), {}, compress=compress)
    )
    expected = [one.weights() for one in load_packed(path).layers.values()]
    tracemalloc.start()
    try:
        found = [one.weights() for one in load_packed(path).layers.values()]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    for one, other in zip(found, expected, strict=True):
        assert one.tobytes() == other.tobytes() == layer.weights().tobytes()
    assert peak < 1.2 * sum(one.nbytes for one in found) + compress * TABLES
