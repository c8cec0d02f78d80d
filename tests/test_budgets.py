"""What a file may ask of its reader."""

from __future__ import annotations

import pytest

import apot_export
from apot_export import budgets
from apot_export.budgets import Budget
from apot_export.errors import ApotExportError, PackedFileError


def test_a_budget_grows_with_the_file_up_to_a_ceiling() -> None:
    small, large = Budget(0), Budget(1 << 20)
    assert small.most(budgets.WEIGHTS) == 1 << 24
    assert large.most(budgets.WEIGHTS) == (1 << 24) + (1 << 24)
    assert Budget(1 << 40).most(budgets.WEIGHTS) == 1 << 30
    assert large.most(budgets.JSON_VALUES) == small.most(budgets.JSON_VALUES) == 1 << 18


def test_a_file_that_asks_for_more_is_refused_with_advice_that_works() -> None:
    budget, asked = Budget(1000), 1 << 30
    with pytest.raises(PackedFileError) as caught:
        budget.require(budgets.WEIGHTS, asked, "model: conv.planes", PackedFileError)
    assert caught.value.where == "model: conv.planes"
    assert caught.value.expected == "at most 16793216 weights"
    assert caught.value.got == f"{asked} in a file of 1000 bytes"
    _, _, advice = str(caught.value.fix).partition("--max-memory ")
    with apot_export.max_memory(int(advice.split()[0])):
        budget.require(budgets.WEIGHTS, asked, "model: conv.planes", PackedFileError)


def test_the_stated_limit_counts_inside_alone() -> None:
    budget = Budget(0)
    with apot_export.max_memory(1 << 20), apot_export.max_memory(None):
        assert budget.most(budgets.BYTES) == 1 << 20
        assert budget.most(budgets.JSON_VALUES) == 1 << 10
    assert budget.most(budgets.BYTES) == 256 << 20


@pytest.mark.parametrize("size", [0, -1])
def test_a_limit_is_positive(size: int) -> None:
    with pytest.raises(ApotExportError, match="positive"), apot_export.max_memory(size):
        pass
