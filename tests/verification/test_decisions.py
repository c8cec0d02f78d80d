"""Decision points of activation quantizers, and distances of levels to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from apot_export.encoding.capture import capture
from apot_export.network.codebook import distinct_levels
from apot_export.original.quantization import Quantization
from apot_export.original.quantized_layers import QuantConv2d
from apot_export.verification.proof.decisions import distances, first_inputs
from apot_export.verification.proof.levels import compare_levels
from tests.support.one_layer import Small, exported_values, oracle_levels

KINDS = [
    Quantization(family=family, weight_bits=4, activation_bits=bits, method=method)
    for family in ("apot-v1", "apot-v2", "nonzero")
    for method in ("apot", "uniform")
    for bits in (2, 3, 4, 5, 6)
    if (family, method) != ("nonzero", "uniform")
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_decision_points_lie_midway_between_the_codebooks_levels(kind: Quantization) -> None:
    module = QuantConv2d(1, 2, 1, bias=False, quantization=kind)
    module.act_alpha.data.fill_(1.7)
    quantizer = (
        capture(torch.nn.Sequential(torch.nn.ReLU(), module), (1, 1, 1)).layers["1"].activation
    )
    assert quantizer is not None
    levels = distinct_levels(quantizer.codebook)
    points = first_inputs(module, levels[1:].astype(np.float64))
    midway = (levels[1:] + levels[:-1]) / 2 * quantizer.step
    np.testing.assert_allclose(points, midway, rtol=1e-6)
    # To the last bit: the float below a point still has the level before it.
    below = np.nextafter(points.astype(np.float32), np.float32(-np.inf))
    for inputs, expected in ((points, levels[1:]), (below, levels[:-1])):
        values = module.quantized_input(torch.from_numpy(inputs.astype(np.float32)))
        step = float(module.act_alpha.detach()) / module.activation_denominator()
        assert (values.detach().double() / step).round().tolist() == expected.tolist()


def test_distances_are_measured_to_the_cell_of_the_other_level() -> None:
    module = QuantConv2d(1, 1, 1, bias=False, quantization=KINDS[0])
    module.act_alpha.data.fill_(4.0)  # levels 0 1 2 4, decided at 0.5, 1.5 and 3
    values = np.array([0.4, 0.4, 1.0, 3.5, 1.0, 1.0])
    levels = np.array([0, 1, 4, 1, 1, 3], dtype=np.float64)
    found = distances(module, values, levels)
    np.testing.assert_allclose(found[:5], [0, 0.1, 2.0, 2.0, 0], atol=1e-6)
    assert found[5] == np.inf  # no input becomes level 3


@pytest.mark.parametrize("kind", KINDS[:4], ids=str)
def test_differing_levels_are_counted_by_layer_and_distance(kind: Quantization) -> None:
    module = Small(kind)
    quantizer = capture(module, (1, 1, 1)).layers["conv"].activation
    assert quantizer is not None
    book = distinct_levels(quantizer.codebook).astype(np.float64)
    points = first_inputs(module.conv, book[1:]).astype(np.float32)
    images = np.tile(points, 3)[None, None, None, :]
    levels = oracle_levels(module, images)
    values = exported_values(module, images, levels)
    right = compare_levels(module, images, values)
    (layer,) = right.layers
    assert (layer.layer, layer.compared, layer.differing) == ("conv", images.size, 0)
    assert sum(layer.distances) == 0

    # The level below, right at its decision point: explained. Two levels below: not.
    lower = book[np.searchsorted(book, levels) - 1].astype(np.float32)
    found = compare_levels(module, images, exported_values(module, images, lower))
    (layer,) = found.layers
    assert (layer.differing, layer.unexplained) == (images.size, 0)
    assert layer.distances[0] == images.size
    assert layer.largest_distance < 0.125

    wrong = levels.copy()
    wrong[..., -1] = 0
    found = compare_levels(module, images, exported_values(module, images, wrong))
    (layer,) = found.layers
    assert (layer.differing, layer.unexplained) == (1, 1)
    assert layer.distances == (0, 0, 0, 0, 1)
    assert layer.largest_distance > 1000
