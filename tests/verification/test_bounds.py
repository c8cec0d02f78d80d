"""Whatever can be captured has a rounding bound."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from apot_export.encoding import _functions
from apot_export.network import Elementwise
from apot_export.network.operations import FUNCTIONS as FUNCTIONS_OF_NUMBERS
from apot_export.original import primitives as p
from apot_export.verification.proof.rounding import Bounded, bounded_function, bounded_module

PRIMITIVES: dict[Any, tuple[Any, ...]] = {
    p.scale_bias: ((2.0, -3.0), (0.5, 1.0)),
    p.rectify: (),
    p.clip: (-1.0, 3.0),
    p.reduce: ("mean", (1, 2)),
    p.global_average: (),
    p.crop: ((0, 1, 0), (2, 4, 4), (1, 2, 1)),
    p.pad: ((0, 1, 0), (0, 0, 2), -2.0),
    p.reshape: ((4, 8),),
    p.transpose: ((3, 1, 2),),
    p.resample: (torch.rand(5, 4) - 0.5, torch.rand(3, 4)),
    p.largest: ((2, 2), (2, 1), (0, 0)),
    p.average: ((2, 2), (2, 1)),
    p.upsample: ((2, 3),),
}


def name_of(target: Any) -> str:
    return target if isinstance(target, str) else f"{target.__module__}.{target.__name__}"


def values() -> Bounded:
    value = torch.arange(32.0).reshape(1, 2, 4, 4) - 8
    return Bounded(value, torch.full_like(value, 0.5))


def test_every_function_that_capture_knows_has_its_bound_tested() -> None:
    of_others = {p.multiply, p.add, p.concatenate, p.elementwise}
    assert {*PRIMITIVES, *of_others} == {*_functions.PRIMITIVES}


def test_bounds_of_concatenated_values_lie_beside_each_other() -> None:
    one, two = values(), Bounded(values().value, values().bound / 2)
    found = bounded_function(p.concatenate, (2, one, two), lambda plain: p.concatenate(*plain))
    assert torch.equal(found.value, torch.cat([one.value, two.value], 2))
    assert torch.equal(found.bound, torch.cat([one.bound, two.bound], 2))


def changed_within(bound: torch.Tensor, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return bound * (2 * torch.rand(bound.shape, generator=generator) - 1)


@pytest.mark.parametrize("target", PRIMITIVES, ids=name_of)
def test_bounds_of_primitives_hold_what_errors_of_their_operands_do(target: Any) -> None:
    operand, options = values(), PRIMITIVES[target]
    found = bounded_function(target, (operand, *options), lambda plain: target(*plain))
    for seed in range(4):
        changed = target(operand.value + changed_within(operand.bound, seed=seed), *options)
        assert bool(((changed - found.value).abs() <= found.bound).all())


@pytest.mark.parametrize("target", [p.multiply, p.add], ids=name_of)
def test_bounds_of_two_operands(target: Any) -> None:
    both = [values(), Bounded(values().value.flip(2), values().bound / 2)]
    found = bounded_function(target, tuple(both), lambda plain: target(*plain))
    for seed in range(4):
        changed = [one.value + changed_within(one.bound, seed=seed) for one in both]
        assert bool(((target(*changed) - found.value).abs() <= found.bound).all())


@pytest.mark.parametrize("name", sorted(FUNCTIONS_OF_NUMBERS))
def test_functions_of_numbers_are_those_of_the_oracle_within_their_bounds(name: str) -> None:
    value = torch.linspace(0.01, 9, 999).reshape(1, 1, 27, 37)
    value = value if name in ("log", "sqrt", "reciprocal") else value - 4.5
    operand = Bounded(value, torch.zeros_like(value))
    arguments = (operand, name)
    found = bounded_function(p.elementwise, arguments, lambda plain: p.elementwise(*plain))
    oracle = Elementwise(function=name).compute(value.numpy())
    assert bool(((torch.from_numpy(oracle) - found.value).abs() <= found.bound).all())


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm])
def test_every_module_that_capture_knows_has_a_bound(kind: Any) -> None:
    operand = values()
    if kind is nn.BatchNorm1d:
        operand = Bounded(operand.value.reshape(16, 2), operand.bound.reshape(16, 2))
    module = kind(2).eval()
    with torch.no_grad():
        found = bounded_module(module, operand)
    assert found.value.shape == module(operand.value).shape
    assert float(found.bound.max()) > 0
