"""Weights that are sums of scaled sign vectors (ALQ), and how checkpoints pickle them.

Their objects are stand-ins, which hold attributes and run nothing of the training code. What is in
them is checked here before anything reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from apot_export.errors import CheckpointError, RecognitionError
from apot_export.network.layers import MultiBitWeights
from apot_export.original._pickles import StandIn

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
    bases, alpha, mask = (np.asarray(tensor) for tensor in tensors.values())
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


def require_bases_of(
    name: str, weights: MultiBitWeights, expected: torch.Tensor, path: Path
) -> None:
    """Raise `RecognitionError` unless sign vectors add up to the state dict's weights."""
    out, groups, slots, group_size = weights.bases.shape
    if out * groups * group_size != expected.numel():
        return  # encoding says so with both shapes
    bases, coordinates = torch.from_numpy(weights.bases), torch.from_numpy(weights.coordinates)
    sums = _summed(weights, bases, coordinates, expected.shape)
    magnitudes = _summed(weights, torch.ones_like(bases), coordinates.abs(), expected.shape)
    differs = (sums - expected).abs() > slots * 2.0**-23 * magnitudes
    if differs.any():
        raise RecognitionError(
            "The bases of a layer contradict its weights.",
            where=f"{path}: {name}",
            expected="sign vectors that add up to the layer's weights",
            got=f"{int(differs.sum())} of {expected.numel()} weights differ",
            fix="convert a checkpoint whose bases and state dict were saved together",
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
        bases = torch.from_numpy(weights.bases)
        sums = _summed(weights, bases, rounded.float(), layer.weight.shape)
        layer.weight = nn.Parameter(sums, requires_grad=False)


def _summed(
    weights: MultiBitWeights, bases: torch.Tensor, coordinates: torch.Tensor, shape: torch.Size
) -> torch.Tensor:
    """Return the sums of the sign vectors in use times their coordinates, in the weights' shape."""
    used = coordinates * torch.from_numpy(weights.mask).float()
    groups = (bases.float() * used.unsqueeze(-1)).sum(dim=2)
    return (groups.transpose(1, 2) if weights.position_major else groups).reshape(shape)


def multi_bit_layers(
    checkpoint: Checkpoint, state: dict[str, torch.Tensor]
) -> dict[str, MultiBitWeights]:
    """Match sign vectors with the layers that they belong to: the weights of two or more axes.

    Raises:
        RecognitionError: There are more or fewer of them than layers.
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
    return dict(zip(names, checkpoint.multi_bit, strict=True))
