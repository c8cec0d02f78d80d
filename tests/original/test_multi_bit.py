"""Sign vectors of checkpoints: in the order in which they add up to the trained weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from apot_export.encoding.planes import encode_planes
from apot_export.network.layers import MultiBitWeights
from apot_export.original.checkpoint import Checkpoint
from apot_export.original.multi_bit import multi_bit_layers
from tests.support.pytorch_sums import as_pytorch


def trained(
    slots: int, size: int, *, transposed: bool, position_major: bool
) -> tuple[MultiBitWeights, torch.Tensor]:
    """Return sign vectors, and the weights that the training code makes of them."""
    generator = torch.Generator().manual_seed(slots * size)
    signs = torch.randint(0, 2, (8, 6, slots, size), generator=generator) * 2 - 1
    used = torch.randint(0, slots + 1, (8, 6, 1, 1), generator=generator)
    mask = torch.arange(slots).reshape(1, 1, -1, 1) < used
    bases = (signs * mask).to(torch.int8)
    if transposed:
        bases = bases.transpose(2, 3).contiguous().transpose(2, 3)
    alpha = torch.rand((8, 6, slots, 1), generator=generator) + 0.1
    weight = torch.sum(bases.float() * (alpha * mask.float()), dim=2)
    if position_major:
        weight = torch.transpose(weight, 1, 2)
    weights = MultiBitWeights(
        bases=bases.numpy(),
        coordinates=alpha[..., 0].numpy(),
        mask=mask[..., 0].numpy(),
        position_major=position_major,
    )
    shape = (8, size, 3, 2) if position_major else (8, 6, size, 1)
    return weights, weight.reshape(shape)


def decoded(weights: MultiBitWeights, trained: torch.Tensor) -> np.ndarray:
    checkpoint = Checkpoint(
        path=Path("x"), sha256="", state={"layer.weight": trained}, multi_bit=(weights,)
    )
    ordered = multi_bit_layers(checkpoint, checkpoint.state)["layer"]
    return encode_planes("layer", tuple(trained.shape), ordered).weights()


@as_pytorch
@pytest.mark.parametrize("position_major", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("slots", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("size", [9, 25, 64])
def test_sums_are_the_trained_weights_bit_for_bit(
    slots: int, size: int, transposed: bool, position_major: bool
) -> None:
    weights, expected = trained(slots, size, transposed=transposed, position_major=position_major)
    got = decoded(weights, expected)
    assert np.array_equal(got.view(np.uint32), expected.numpy().view(np.uint32))


@as_pytorch
def test_each_group_has_its_own_order() -> None:
    """Half of the groups were added in one order, half in the other."""
    weights, first = trained(6, 64, transposed=False, position_major=False)
    _, second = trained(6, 64, transposed=True, position_major=False)
    assert not torch.equal(first, second)
    mixed = torch.cat([first[:4], second[4:]])
    assert decoded(weights, mixed).tobytes() == mixed.numpy().tobytes()


def test_sums_in_another_order_differ_in_the_last_bit_at_most() -> None:
    """A row of 5 is added in two ways: four weights at once, and the fifth."""
    weights, expected = trained(7, 5, transposed=False, position_major=False)
    got = decoded(weights, expected)
    np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=7 * 2**-23)


def test_slots_that_are_not_used_stay_so() -> None:
    weights, expected = trained(6, 9, transposed=True, position_major=False)
    without = replace(weights, mask=np.zeros_like(weights.mask))
    assert not decoded(without, torch.zeros_like(expected)).any()
