"""Ranges of inputs that training clips from above only: no image in [-8, 8] leaves them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from apot_export.network import CodedNetwork, QuantizeActivation, oracle
from apot_export.network.bounds import IMAGE_LIMIT
from tests.support.random_coded_networks import Recipe, network_of_recipe


def recipe(seed: int, **options: Any) -> Recipe:
    bits = 2 + seed % 3
    return Recipe(
        seed=seed, method="uniform", weight_bits=bits, activation_bits=bits, gain=2.0, **options
    )


def half_steps_of_inputs(network: CodedNetwork, limit: float) -> dict[str, float]:
    """Return the lowest input of every quantizer over its lowest level's, by layer."""
    rng = np.random.default_rng(0)
    images = rng.choice([-limit, 0, limit], (16, *network.input_shape)).astype(np.float32)
    values: dict[str, NDArray[Any]] = {network.input: images}
    oracle.run(network, images, values.__setitem__)
    return {
        node.operation.layer: float(values[node.inputs[0]].min())
        * float(network.input_quantizer(node.operation.layer).index_scale)
        - network.input_quantizer(node.operation.layer).first_index
        for node in network.nodes
        if isinstance(node.operation, QuantizeActivation)
    }


@pytest.mark.parametrize("seed", range(9))
def test_no_input_falls_below_the_lowest_level(seed: int) -> None:
    network = network_of_recipe(recipe(seed, sign="passes", groups=1 + seed % 2))
    reached = half_steps_of_inputs(network, IMAGE_LIMIT)
    assert min(reached.values()) >= 0
    lowest = [network.input_quantizer(name).lowest_level for name in reached]
    assert max(lowest) < 0


def test_inputs_that_a_relu_keeps_from_falling_below_0_have_no_negative_level() -> None:
    for seed in range(3):
        network = network_of_recipe(recipe(seed, sign="relu"))
        assert {network.input_quantizer(name).first_index for name in ("block", "narrow")} == {0}
