"""Find layers whose float weights are sums of powers of two already.

Such weights are left by incremental quantization (INQ), DeepShift, ShiftCNN and LogNet, and by
checkpoints that hold quantized weights in place of latent ones. All weights of a layer are
`scale * level` with few integer levels, each the sum of at most `_MOST_TERMS` powers of two.

Nothing is rounded: a layer is recognised where its codes decode to its weights bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from apot_export.errors import BitWidthError
from apot_export.network import PowerOfTwoWeights
from apot_export.network.bounds import UNIT_ROUNDOFF
from apot_export.network.codebook import MAXIMUM_LEVEL, Codebook, apot, uniform
from apot_export.original.choices import Choices
from apot_export.original.quantization import OFF, POWER_OF_TWO_LAYERS

_MOST_BITS = 8
"""Widest code, the sign included, and so the most values that a layer's weights may take."""
_MOST_TERMS = 4
"""Powers of two that add up to a level: every integer up to 127 is a sum of so many."""
_WEIGHTS_A_VALUE = 4
"""Weights that a layer must have for each value that they take: in a layer of fewer weights, or of
more values, the values say too little."""
_LOOKED_AT = 4096
"""Weights that show of most layers that they take too many values."""
_SMALLEST_LEVELS = range(1, 1 << (_MOST_BITS - 1), 2)
"""Levels, up to a power of two, that the smallest weight may have."""
_ROUNDING = 4 * UNIT_ROUNDOFF
"""How far, relatively, a float32 weight may be from scale times level."""


def find_powers_of_two(
    weights: Mapping[str, torch.Tensor], choices: Choices
) -> dict[str, PowerOfTwoWeights]:
    """Return the layers whose weights are sums of powers of two.

    Args:
        weights: Of plain layers, by name.
        choices: The user's, who may not want any.

    Raises:
        BitWidthError: There is no such choice.
    """
    if choices.power_of_two_layers not in POWER_OF_TWO_LAYERS:
        raise BitWidthError(
            "Layers of powers of two are looked for, or not.",
            expected=" or ".join(POWER_OF_TWO_LAYERS),
            got=f"--power-of-two-layers {choices.power_of_two_layers}",
        )
    if choices.power_of_two_layers == OFF:
        return {}
    found = {name: recognise(weight.detach().cpu().numpy()) for name, weight in weights.items()}
    return {name: levels for name, levels in found.items() if levels is not None}


def recognise(weights: NDArray[np.float32]) -> PowerOfTwoWeights | None:
    """Find levels and scale of weights that take few values; None where they have none.

    Args:
        weights: float32, any shape.
    """
    magnitudes = _few_magnitudes(weights)
    if magnitudes is None:
        return None
    positive = magnitudes[magnitudes > 0].astype(np.float64)
    for smallest in _SMALLEST_LEVELS:
        terms = _terms(positive * (smallest / positive[0]))
        if terms is not None:
            levels = terms.sum(axis=1)
            break
    else:
        return None
    if len(np.unique(levels)) < len(levels):
        return None  # values that differ by a rounding: no code tells them apart
    ratios = positive / levels
    step = float((ratios.min() + ratios.max()) / 2)
    if (np.abs(levels * step - positive) > _ROUNDING * positive).any():
        return None
    has_zero = len(positive) < len(magnitudes)
    codebook = _codebook(terms, has_zero=has_zero)
    if codebook is None:
        return None
    code_of_level = codebook.code_of_level()
    codes = [code_of_level[int(level)] for level in ([0] if has_zero else []) + levels.tolist()]
    return PowerOfTwoWeights(
        codebook=codebook,
        step=step,
        magnitudes=magnitudes,
        codes=np.array(codes, dtype=np.uint8),
    )


def _few_magnitudes(weights: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return the magnitudes of weights, ascending, where they are few and not 0 alone."""
    most = 1 << (_MOST_BITS - 1)
    for looked_at in (weights.reshape(-1)[:_LOOKED_AT], weights):
        magnitudes = np.unique(np.abs(looked_at))
        if len(magnitudes) > most:
            return None
    few = len(np.unique(weights)) * _WEIGHTS_A_VALUE <= weights.size
    normal = magnitudes[magnitudes > 0].min(initial=np.inf) >= np.finfo(np.float32).tiny
    return magnitudes if few and normal and np.isfinite(magnitudes[-1]) and magnitudes[-1] else None


def _terms(multiples: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """Write numbers as sums of signed powers of two, up to float32 rounding, the largest first.

    Returns:
        [numbers, terms] in units of the smallest power; None where a number takes too many.
    """
    rest = multiples.copy()
    found: list[NDArray[np.float64]] = []
    while (np.abs(rest) > _ROUNDING * multiples).any():
        if len(found) == _MOST_TERMS:
            return None
        significant = np.where(np.abs(rest) > _ROUNDING * multiples, rest, 0.0)
        mantissa, exponent = np.frexp(significant)
        # The nearest power of two: 3 lies between two, and becomes 2 + 1.
        power = np.ldexp(np.sign(mantissa), exponent - (np.abs(mantissa) <= 0.75))  # noqa: PLR2004
        found.append(np.where(significant == 0, 0.0, power))
        rest -= found[-1]
    terms = np.stack(found, axis=1)
    unit = np.abs(terms[terms != 0]).min()
    if np.abs(terms).max(axis=0).sum() / unit > MAXIMUM_LEVEL:
        return None
    return (terms / unit).astype(np.int64)


def _tables(terms: NDArray[np.int64]) -> list[list[int]]:
    """Return digit tables whose sums include those of each row: one for each column."""
    terms = terms.copy()
    if terms.shape[1] > 1:
        # A single power may be an entry of any table: of the second, where that has it anyway.
        alone, anyway = (terms[:, 1:] == 0).all(axis=1), terms[:, 1]
        moved = alone & np.isin(terms[:, 0], anyway) & ~np.isin(terms[:, 0], terms[~alone, 0])
        terms[moved, :2] = terms[moved, 1::-1]
    return [np.unique(column).tolist() for column in terms.T]


def _codebook(terms: NDArray[np.int64], *, has_zero: bool) -> Codebook | None:
    """Return the codebook of fewest bits that has all levels; None where no code is short enough.

    Args:
        terms: Powers of two that add up to each level, [levels, terms].
        has_zero: Whether 0 is a level, too.
    """
    levels = {*terms.sum(axis=1).tolist(), *([0] if has_zero else [])}
    tables = _tables(np.vstack([terms, np.zeros_like(terms[:1])]) if has_zero else terms)
    widths = [max(1, (len(table) - 1).bit_length()) for table in tables]
    candidates = [apot(bits, signed=True) for bits in range(2, _MOST_BITS - 1)]
    if max(levels) < 1 << (_MOST_BITS - 1):
        candidates.append(uniform(int(max(levels)).bit_length(), signed=True))
    if sum(widths) < _MOST_BITS:
        padded = (
            (*table, *[0] * ((1 << width) - len(table)))
            for table, width in zip(tables, widths, strict=True)
        )
        candidates.insert(0, Codebook(tables=tuple(padded), denominator=1, signed=True))
    fitting = [book for book in candidates if levels <= set(book.levels.tolist())]
    best: Any = min(fitting, key=lambda book: book.bits, default=None)
    return None if best is None else Codebook(tables=best.tables, denominator=1, signed=True)
