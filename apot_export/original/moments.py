"""Mean and deviation of a layer's weights, the same on every machine.

The codes of a layer depend on both to the last bit. A float32 sum depends on the order of its
additions, and PyTorch's order on the number of threads and on how the tensor lies in memory. Here
it is always the order that PyTorch takes with one thread, on x86 with AVX2 or later, for a tensor
in C order.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

_LANES = 8
"""Numbers that are added at once."""
_ROWS = 4
"""Partial sums of each lane."""
_LEVELS = 4
"""Levels of partial sums, of which each adds up blocks of the one below."""


def weight_moments(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the unbiased standard deviation of weights.

    The mean is a float32 sum, added in the order above, over the number of weights. The deviation
    is computed in float64 and rounded once.

    Args:
        weight: Any shape, in any memory layout, on any device.

    Returns:
        Two scalars of float32 on the device of the weights.
    """
    values = np.asarray(weight.detach().cpu().float().contiguous()).reshape(-1)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # encoding refuses them
        mean = _sum(values) / np.float32(values.size)
        squares = values.astype(np.float64)
        squares -= squares.mean()
        squares *= squares
        deviation = np.sqrt(squares.sum() / np.float64(values.size - 1)).astype(np.float32)
    return torch.tensor(mean, device=weight.device), torch.tensor(deviation, device=weight.device)


def _sum(values: NDArray[np.float32]) -> np.float32:
    """Return the sum of float32 numbers [count]."""
    lanes = _LANES if values.size >= _LANES else 1
    vectors = values[: values.size // lanes * lanes].reshape(-1, lanes)
    whole = len(vectors) // _ROWS * _ROWS
    sums = _cascaded(vectors[:whole].reshape(-1, _ROWS * lanes)).reshape(_ROWS, lanes)
    by_lane = _added(np.concatenate([sums[:1], vectors[whole:], sums[1:]]))
    return np.float32(_added(np.concatenate([values[vectors.size :], by_lane])))


def _cascaded(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add up rows [count, width] to [width], block by block, so that few roundings add up."""
    step = 1 << max(4, (max(1, len(rows)) - 1).bit_length() // _LEVELS)
    rest = []
    for _ in range(_LEVELS - 1):
        whole = len(rows) // step * step
        rest.append(_added(rows[whole:]))
        rows = _added(rows[:whole].reshape(-1, step, rows.shape[1]).swapaxes(0, 1))
    return _added(np.stack([*rest, _added(rows)]))


def _added(terms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sum over the first axis, one term after the other."""
    total = np.zeros(terms.shape[1:], dtype=np.float32)
    for term in terms:
        total += term
    return total
