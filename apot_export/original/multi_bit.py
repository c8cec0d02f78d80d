"""Weights that are sums of scaled sign vectors (ALQ), and how checkpoints pickle them.

Their objects are stand-ins, which hold attributes and run nothing of the training code. What is in
them is checked here before anything reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from apot_export.errors import CheckpointError, RecognitionError
from apot_export.network.layers import MultiBitWeights
from apot_export.network.planes import ungrouped
from apot_export.original._data import StandIn

if TYPE_CHECKING:
    from apot_export.original.checkpoint import Checkpoint

_STRUCTURES = {
    "kernelwise": False,
    "pixelwise": True,
    "channelwise": False,
    "subchannelwise": False,
}
"""Names of groupings, and whether a group holds the input channels of one kernel position."""
_AXES = 4
_LANES = 4
"""Partial sums of PyTorch's sums."""


def multi_bit_weights(entry: object, where: str) -> MultiBitWeights:
    """Read one layer's bases, coordinates and mask.

    Raises:
        CheckpointError: The entry is another object, or its tensors do not fit each other.
    """
    attributes = entry.held if isinstance(entry, StandIn) else {}
    tensors = {name: attributes.get(name) for name in ("B", "alpha", "mask")}
    structure = str(attributes.get("structure"))
    if structure not in _STRUCTURES or not all(
        isinstance(tensor, torch.Tensor) and tensor.ndim == _AXES for tensor in tensors.values()
    ):
        raise CheckpointError(
            "A layer's multi-bit weights are not what the training code writes.",
            where=where,
            expected="tensors B, alpha and mask of 4 axes, and a structure of "
            + ", ".join(_STRUCTURES),
            got=", ".join(attributes) or type(entry).__name__,
        )
    bases, alpha, mask = (np.asarray(tensor).copy() for tensor in tensors.values())
    column = (*bases.shape[:3], 1)
    types = [array.dtype.name for array in (bases, alpha, mask)]
    if types != ["int8", "float32", "bool"] or alpha.shape != column or mask.shape != column:
        raise CheckpointError(
            "A layer's multi-bit weights do not fit each other.",
            where=where,
            expected="B int8 [out, groups, bits, size]; alpha float32, mask bool [..., 1]",
            got=f"B {bases.dtype} {list(bases.shape)}, alpha {alpha.dtype} {list(alpha.shape)}, "
            f"mask {mask.dtype} {list(mask.shape)}",
        )
    return MultiBitWeights(
        bases=bases,
        coordinates=alpha[..., 0],
        mask=mask[..., 0],
        position_major=_STRUCTURES[structure],
    )


def shorten_coordinates(
    module: nn.Module, multi_bit: Mapping[str, MultiBitWeights], terms: int
) -> None:
    """Give a module the weights whose coordinates are sums of the nearest powers of two."""
    for name, weights in multi_bit.items():
        rest = torch.from_numpy(weights.coordinates).double()
        rounded = torch.zeros_like(rest)
        for _ in range(terms):
            mantissa, exponent = torch.frexp(rest.abs())
            power = torch.ldexp(torch.ones_like(rest), exponent - (mantissa < 0.75).int())  # noqa: PLR2004 - between a power of two and the next
            power = torch.where(rest.abs() > 0, power * rest.sign(), 0.0)
            rounded, rest = rounded + power, rest - power
        layer: Any = module.get_submodule(name)
        sums = _sums(weights, rounded.float().numpy(), range(weights.bases.shape[2]))
        shortened = ungrouped(
            sums, tuple(layer.weight.shape), position_major=weights.position_major
        )
        layer.weight = nn.Parameter(torch.from_numpy(shortened), requires_grad=False)


def multi_bit_layers(
    checkpoint: Checkpoint, state: dict[str, torch.Tensor]
) -> dict[str, MultiBitWeights]:
    """Match sign vectors with the layers that they belong to: the weights of two or more axes.

    The vectors of each group are put into the order in which they add up to its trained weights.

    Raises:
        RecognitionError: There are more or fewer of them than layers, or they do not add up to the
            layers' weights.
    """
    if not checkpoint.multi_bit:
        return {}
    names = [
        key.removesuffix(".weight")
        for key, value in state.items()
        if key.endswith(".weight") and value.ndim > 1
    ]
    if len(names) != len(checkpoint.multi_bit):
        raise RecognitionError(
            "The checkpoint's bases do not match its layers.",
            where=str(checkpoint.path),
            expected=f"{len(names)} layers: {', '.join(names[:4])}, ...",
            got=f"{len(checkpoint.multi_bit)} sets of bases",
        )
    return {
        name: _in_order_of_sums(weights, state[f"{name}.weight"], f"{checkpoint.path}: {name}")
        for name, weights in zip(names, checkpoint.multi_bit, strict=True)
    }


def _in_order_of_sums(
    weights: MultiBitWeights, trained: torch.Tensor, where: str
) -> MultiBitWeights:
    """Order each group's slots so that most of its sums are the trained weights bit for bit.

    Raises:
        RecognitionError: The sums are other numbers than the weights.
    """
    out, groups, slots, size = weights.bases.shape
    if out * groups * size != trained.numel():
        return weights  # encoding says so with both shapes
    values = np.asarray(trained)
    if weights.position_major:
        values = values.reshape(out, size, groups).swapaxes(1, 2)
    values = values.reshape(out, groups, size)
    orders = np.array(_orders(slots))
    sums = [_sums(weights, weights.coordinates, order) for order in orders]
    magnitudes = (np.abs(weights.coordinates) * weights.mask).sum(axis=2, keepdims=True)
    differs = np.abs(sums[0] - values) > slots * 2.0**-23 * magnitudes
    if differs.any():
        raise RecognitionError(
            "The bases of a layer contradict its weights.",
            where=where,
            expected="sign vectors that add up to the layer's weights",
            got=f"{int(differs.sum())} of {values.size} weights differ",
            fix="convert a checkpoint whose bases and state dict were saved together",
        )
    order = orders[np.argmin([(found != values).sum(axis=2) for found in sums], axis=0)]
    return dataclasses.replace(
        weights,
        bases=np.take_along_axis(weights.bases, order[..., None], axis=2),
        coordinates=np.take_along_axis(weights.coordinates, order, axis=2),
        mask=np.take_along_axis(weights.mask, order, axis=2),
    )


def _orders(slots: int) -> list[list[int]]:
    """Return the orders in which PyTorch adds up the slots of a group.

    Where neighbouring weights lie next to each other in memory, it adds slot after slot. Elsewhere,
    and in what is left of a row, it keeps four partial sums, of every fourth slot. Those beyond the
    last whole four go to the first sum, and the four are added at the end. From eight slots on that
    is no order of additions.

    >>> _orders(6)
    [[0, 4, 5, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    """
    plain = list(range(slots))
    if not _LANES < slots < 2 * _LANES:
        return [plain]
    return [[0, *plain[_LANES:], *plain[1:_LANES]], plain]


def _sums(
    weights: MultiBitWeights, coordinates: NDArray[np.float32], order: Iterable[int]
) -> NDArray[np.float32]:
    """Return sums of scaled sign vectors, added slot after slot: [out, groups, group_size]."""
    used = coordinates * weights.mask
    total = np.zeros((*used.shape[:2], weights.bases.shape[3]), dtype=np.float32)
    for slot in order:
        total += weights.bases[:, :, slot] * used[:, :, slot, None]
    return total
