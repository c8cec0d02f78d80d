"""Whatever can be captured has a rounding bound: both read one table of functions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from apot_export.encoding import _modules
from apot_export.original import functions
from apot_export.verification.proof.rounding import Bounded, bounded_function, bounded_module

ARGUMENTS: dict[type[nn.Module], tuple[Any, ...]] = {
    nn.MaxPool2d: (2,),
    nn.AvgPool2d: (2,),
    nn.AdaptiveAvgPool2d: (1,),
    nn.Upsample: (8,),
    nn.Flatten: (1,),
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
    elif target in functions.RESHAPES:
        arguments = (operand, (1, 32))
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


@pytest.mark.parametrize(
    "kind",
    sorted({*_modules._PLAIN_MODULES, *_modules._VOID, nn.Upsample}, key=str),
    ids=lambda kind: kind.__name__,
)
def test_every_module_that_capture_knows_has_a_bound(kind: type[nn.Module]) -> None:
    operand = values()
    if kind is nn.BatchNorm1d:
        operand = Bounded(operand.value.reshape(16, 2), operand.bound.reshape(16, 2))
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    module = kind(*(2,) if issubclass(kind, norms) else ARGUMENTS.get(kind, ())).eval()
    with torch.no_grad():
        found = bounded_module(module, operand)
    assert found.value.shape == module(operand.value).shape
    assert float(found.bound.max()) > 0
