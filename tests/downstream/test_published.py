"""The stand-alone reader on what was trained: published checkpoints."""

from __future__ import annotations

import numpy as np
import pytest

from apot_export import downstream
from apot_export.artifacts.directory import PACKED_MODEL
from apot_export.original.checkpoint import load_checkpoint
from tests.support.published import PUBLISHED, Shelf, agreement, in_batches

NAMED = [name for name in PUBLISHED if name not in {"res18_4bit", "alq_lenet5"}]


@pytest.mark.parametrize("name", NAMED)
def test_published_networks(shelf: Shelf, name: str) -> None:
    network = downstream.load(shelf.export(name) / PACKED_MODEL)
    golden = shelf.golden(name)
    weights = {key.removeprefix("weight_q/"): golden[key] for key in golden if "weight_q/" in key}
    assert len(weights) >= 2
    for layer, expected in weights.items():
        assert network.weights(layer).tobytes() == expected.tobytes(), layer
    logits = in_batches(network.run, shelf.images(name))
    itself = agreement(golden["logits_no_mkldnn"], golden["logits"])
    assert agreement(logits, golden["logits_f64"]) >= itself


def test_published_resnet_18(shelf: Shelf) -> None:
    network = downstream.load(shelf.export("res18_4bit") / PACKED_MODEL)
    golden = shelf.golden("res18_4bit")
    for key in golden:
        if key.startswith("weight_int/"):
            factors = network.layers[key.removeprefix("weight_int/")].factors
            np.testing.assert_array_equal(factors, golden[key], err_msg=key)
    logits = network.run(shelf.images("res18_4bit"))
    assert agreement(logits, golden["logits_f64"][: len(logits)]) == 1


def test_published_multi_bit_network(shelf: Shelf) -> None:
    network = downstream.load(shelf.export("alq_lenet5") / PACKED_MODEL)
    trained = load_checkpoint(shelf.reference / "checkpoints" / PUBLISHED["alq_lenet5"].checkpoint)
    for name in network.layers:
        expected = trained.state[f"{name}.weight"].numpy()
        assert network.weights(name).tobytes() == expected.tobytes(), name
    logits = in_batches(network.run, shelf.images("alq_lenet5"))
    assert np.abs(logits - shelf.golden("alq_lenet5")["logits"]).max() < 1e-4
