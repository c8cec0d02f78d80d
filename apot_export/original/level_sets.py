"""Level sets as the training codes build them: float sums of powers of two, in a set's order.

`apot_export.original.families` states the same levels as integers, for encoding. The two share no
code, because verification compares one with the other.

Sources: Li, Dong and Wang, "Additive Powers-of-Two Quantization", ICLR 2020; the non-zero grid of
the Enhanced-Quantization code.
"""

from __future__ import annotations

import itertools

import torch

from apot_export.errors import BitWidthError
from apot_export.original import families
from apot_export.original.quantization import TERNARY_BITS, Quantization

_TERM_EXPONENTS: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((1, 2, 3),),
    3: ((1, 2, 4), (3,)),
    4: ((1, 3, 5), (2, 4, 6)),
    5: ((1, 3, 6), (2, 4, 7), (5,)),
    6: ((1, 4, 7), (2, 5, 8), (3, 6, 9)),
}
"""Per magnitude bits and per term: the k of the addends 2 ** -k that may be chosen beside 0."""

_UNITS_BESIDE = 2
"""Units in the last place around a middle of two levels among which the upper one begins to win."""

_ROWS = 3
"""The original always loops over three rows of addends; absent ones hold 0 alone."""


def weight_level_set(quantization: Quantization) -> torch.Tensor | None:
    """Return the magnitudes of weights, float32 [levels], or None where weights are rounded.

    Raises:
        BitWidthError: The original's set degenerates at this bit-width.
    """
    magnitude_bits = quantization.weight_bits - 1
    family = families.by_name(quantization.family)
    if family.has_grids(quantization.weight_bits):
        lowest = 2.0**-quantization.z if quantization.grid == "nonzero" else 0.0
        return torch.tensor(list({1.0, lowest}))
    if quantization.method == "uniform" or quantization.weight_bits == TERNARY_BITS:
        return None
    sums = _sums(magnitude_bits, quantization.method)
    # The non-zero code discards the result of its division by the largest level.
    return _divided_by_largest(sums) if family.divides_weight_levels else sums


def activation_level_set(quantization: Quantization) -> torch.Tensor | None:
    """Return the levels of activations, float32 [levels], or None where they are rounded.

    Raises:
        BitWidthError: The original's set degenerates at this bit-width.
    """
    method = quantization.activation_method
    if method == "uniform":
        return None
    return _divided_by_largest(_sums(quantization.activation_bits, method))


def nearest_level(values: torch.Tensor, level_set: torch.Tensor) -> torch.Tensor:
    """Project values onto the first nearest entry of a level set, any shape, float32."""
    level_set = level_set.to(values.dtype)
    ordered, _ = level_set.sort()
    return ordered[
        torch.bucketize(values.contiguous(), _first_values(ordered, level_set), right=True)
    ]


def _first_values(ordered: torch.Tensor, level_set: torch.Tensor) -> torch.Tensor:
    """Return the least value that takes each level but the lowest, ties and roundings included."""
    # Both distances to a middle are off by less than a unit in its last place.
    beside = [(ordered[1:] + ordered[:-1]) / 2]
    for _ in range(_UNITS_BESIDE):
        low, high = beside[0], beside[-1]
        infinity = torch.full_like(low, torch.inf)
        beside = [low.nextafter(-infinity), *beside, high.nextafter(infinity)]
    around = torch.stack(beside)
    distances = (around.unsqueeze(-1) - level_set).abs()
    takes_upper = level_set[distances.min(dim=-1)[1]] == ordered[1:]
    return around.gather(0, takes_upper.int().argmax(dim=0, keepdim=True))[0]


def _sums(magnitude_bits: int, method: str) -> torch.Tensor:
    """Return all sums of addends; a Python set's iteration order breaks the original's ties."""
    if method == "pot":
        rows = [[0.0, *(2.0**-k for k in range(1, 2**magnitude_bits))]]
    elif magnitude_bits in _TERM_EXPONENTS:
        rows = [[0.0, *(2.0**-k for k in term)] for term in _TERM_EXPONENTS[magnitude_bits]]
    else:
        raise BitWidthError(
            "Additive powers-of-two levels are defined for 2 to 6 magnitude bits.",
            got=f"{magnitude_bits} magnitude bits",
        )
    rows += [[0.0]] * (_ROWS - len(rows))
    return torch.tensor(list({sum(choice) for choice in itertools.product(*rows)}))


def _divided_by_largest(sums: torch.Tensor) -> torch.Tensor:
    return sums.mul(1.0 / torch.max(sums))
