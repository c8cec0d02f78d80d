"""The input quantizer of the oracle, held against the nearest level by search."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from apot_export.network import ActivationQuantizer
from apot_export.network.codebook import Codebook, apot, distinct_levels, uniform
from apot_export.network.oracle import quantize_activation

ACTIVATION_BOOKS = [apot(bits, signed=False) for bits in range(2, 7)] + [
    uniform(bits, signed=False) for bits in range(1, 9)
]


def book_name(book: Codebook) -> str:
    return f"{'uniform' if len(book.tables) == book.bits else 'apot'}-{book.bits}"


@pytest.mark.parametrize("book", ACTIVATION_BOOKS, ids=book_name)
@pytest.mark.parametrize("alpha", [1.0, 0.3, 2.718281828, 8.75])
def test_a_level_is_the_nearest_one(book: Codebook, alpha: float) -> None:
    quantizer = ActivationQuantizer(codebook=book, alpha=np.float32(alpha))
    levels = distinct_levels(book).astype(np.float64)
    rng = np.random.default_rng(book.denominator)
    values = rng.uniform(-0.2 * alpha, 1.3 * alpha, size=3000).astype(np.float32)
    steps = np.clip(values.astype(np.float64) * book.denominator / float(quantizer.alpha), 0, None)
    decision_points = (levels[1:] + levels[:-1]) / 2
    distance = np.abs(steps[:, None] - decision_points).min(axis=1)
    clear = distance > 4 * book.denominator * np.finfo(np.float32).eps
    assert clear.mean() > 0.99
    nearest = levels[np.abs(steps[:, None] - levels).argmin(axis=1)]
    found = quantize_activation(values, quantizer)
    np.testing.assert_array_equal(found[clear], nearest[clear])
    assert set(found.tolist()) == set(levels.tolist())


@pytest.mark.parametrize("book", ACTIVATION_BOOKS, ids=book_name)
def test_the_table_holds_the_level_nearest_to_the_middle_of_each_half_step(book: Codebook) -> None:
    table = ActivationQuantizer(codebook=book, alpha=np.float32(1)).table
    assert table.shape == (2 * book.denominator + 1,)
    for index, level in enumerate(table.tolist()):
        middle = Fraction(2 * index + 1, 4)
        distances = sorted((abs(middle - other), other) for other in set(book.levels.tolist()))
        assert level == distances[0][1]
        assert distances[0][0] < distances[1][0]


@pytest.mark.parametrize("book", ACTIVATION_BOOKS, ids=book_name)
def test_decision_points_go_up_and_levels_are_fixed_points(book: Codebook) -> None:
    # This threshold makes every product exact.
    quantizer = ActivationQuantizer(codebook=book, alpha=np.float32(2 * book.denominator))
    levels = distinct_levels(book)
    ties = (levels[1:] + levels[:-1]).astype(np.float32)
    below = np.nextafter(ties, np.float32(-1))
    assert quantize_activation(ties, quantizer).tolist() == levels[1:].tolist()
    assert quantize_activation(below, quantizer).tolist() == levels[:-1].tolist()
    fixed = (levels * 2).astype(np.float32)
    assert quantize_activation(fixed, quantizer).tolist() == levels.tolist()


def test_values_beyond_the_threshold_are_clipped() -> None:
    quantizer = ActivationQuantizer(codebook=apot(3, signed=False), alpha=np.float32(1e-3))
    extremes = np.array([-np.inf, -3e38, -0.0, 0.0, 1e-3, 3e38, np.inf], dtype=np.float32)
    assert quantize_activation(extremes, quantizer).tolist() == [0, 0, 0, 0, 10, 10, 10]
