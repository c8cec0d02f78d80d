"""Native kernels on published networks: the oracle's numbers, and the original's classes."""

from __future__ import annotations

import numpy as np
import pytest

from apot_export.runtimes.native import compile_network
from apot_export.runtimes.native._library import default_library
from tests.support.native_checks import differences
from tests.support.published import Shelf


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_published_resnets(shelf: Shelf, bits: int) -> None:
    network = shelf.network(f"cifar10_res20_{bits}bit")
    images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    fast = compile_network(network)
    counts = differences(network, fast, images)
    assert counts["levels"] > 300_000
    assert counts["integer sums"] > 300_000


def test_the_published_imagenet_network(shelf: Shelf) -> None:
    network, golden = shelf.network("res18_4bit"), shelf.golden("res18_4bit")
    image = shelf.images("res18_4bit")[:1]
    counts = differences(network, compile_network(network), image)
    assert counts["levels"] > 1_500_000
    assert counts["integer sums"] > 1_500_000
    for name in default_library().kernels:
        fast = compile_network(network, kernels=name, threads=2)
        assert fast.run(image).argmax() == golden["logits_f64"][0].argmax(), name
