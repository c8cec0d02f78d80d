"""Whatever can be captured has a rounding bound: both read one table of functions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from apot_export.encoding import _modules
from apot_export.network import Elementwise
from apot_export.network.operations import FUNCTIONS as FUNCTIONS_OF_NUMBERS
from apot_export.original import functions
from apot_export.original import primitives as p
from apot_export.verification.proof.rounding import Bounded, bounded_function, bounded_module

ARGUMENTS: dict[type[nn.Module], tuple[Any, ...]] = {
    nn.MaxPool2d: (2,),
    nn.AvgPool2d: (2,),
    nn.AdaptiveAvgPool2d: (1,),
    nn.Upsample: (8,),
    nn.Flatten: (1,),
}
SHAPED: dict[str, tuple[Any, ...]] = {
    "flatten": (1,),
    "squeeze": (3,),
    "unsqueeze": (1,),
    "unflatten": (1, (2, 1)),
    "view_as": (torch.zeros(1, 32),),
    "to": (torch.float32,),
    "reshape_as": (torch.zeros(1, 32),),
}
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
}
FUNCTIONS = [
    *(*functions.ADDITIONS, *functions.CLIPS, *functions.MEANS),
    *(*functions.CONCATENATIONS, *functions.RESHAPES, *functions.IDENTITIES, *functions.MODULES),
]


def name_of(target: Any) -> str:
    return target if isinstance(target, str) else f"{target.__module__}.{target.__name__}"


def values() -> Bounded:
    value = torch.arange(32.0).reshape(1, 2, 4, 4) - 8
    return Bounded(value, torch.full_like(value, 0.5))


@pytest.mark.parametrize("target", sorted(FUNCTIONS, key=name_of), ids=name_of)
def test_every_function_that_capture_knows_has_a_bound(target: Any) -> None:
    operand = values()
    arguments: tuple[Any, ...] = (operand,)
    if target in functions.ADDITIONS:
        arguments = (operand, operand)
    elif target in functions.CLIPS:
        arguments = (operand, -1.0, 3.0)
    elif target in functions.MEANS:
        arguments = (operand, [2, 3])
    elif target in functions.CONCATENATIONS:
        arguments = ([operand, operand], 1)
    elif target in functions.RESHAPES or target == "to":
        arguments = (operand, *SHAPED.get(name_of(target).rpartition(".")[2], ((1, 32),)))
    elif target in functions.MODULES:
        arguments = (operand, *ARGUMENTS.get(functions.MODULES[target][0], ()))

    if "dropout" in name_of(target):
        arguments = (operand, 0.5, False)  # as in evaluation: training sets values to 0 at random

    def call(plain: tuple[Any, ...]) -> Any:
        if isinstance(target, str):
            return getattr(plain[0], target)(*plain[1:])
        return target(*plain)

    found = bounded_function(target, arguments, call)
    assert isinstance(found, Bounded)
    assert (found.value.numel() == found.bound.numel()) or target in functions.MEANS
    assert float(found.bound.max()) >= 0.5


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


@pytest.mark.parametrize(
    "kind",
    sorted({*_modules._PLAIN_MODULES, *_modules._VOID, nn.Upsample}, key=str),
    ids=lambda kind: kind.__name__,
)
def test_every_module_that_capture_knows_has_a_bound(kind: type[nn.Module]) -> None:
    operand = values()
    if kind is nn.BatchNorm1d:
        operand = Bounded(operand.value.reshape(16, 2), operand.bound.reshape(16, 2))
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
    module = kind(*(2,) if issubclass(kind, norms) else ARGUMENTS.get(kind, ())).eval()
    with torch.no_grad():
        found = bounded_module(module, operand)
    assert found.value.shape == module(operand.value).shape
    assert float(found.bound.max()) > 0
