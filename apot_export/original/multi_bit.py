"""Weights that are sums of scaled sign vectors (ALQ)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from apot_export.errors import RecognitionError
from apot_export.network.layers import MultiBitWeights
from apot_export.original.checkpoint import Checkpoint


def require_bases_of(
    name: str, weights: MultiBitWeights, expected: torch.Tensor, path: Path
) -> None:
    """Raise `RecognitionError` unless sign vectors add up to the state dict's weights."""
    coordinates = torch.from_numpy(weights.coordinates * weights.mask).unsqueeze(-1)
    groups = (torch.from_numpy(weights.bases).float() * coordinates).sum(dim=2)
    magnitudes = coordinates.abs().sum(dim=2).expand_as(groups)
    if weights.position_major:
        groups, magnitudes = groups.transpose(1, 2), magnitudes.transpose(1, 2)
    if groups.numel() != expected.numel():
        return  # encoding says so with both shapes
    slots = weights.mask.shape[2]
    differs = (groups.reshape(expected.shape) - expected).abs() > (
        slots * 2.0**-23 * magnitudes.reshape(expected.shape)
    )
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
        used = rounded.float() * torch.from_numpy(weights.mask).float()
        groups = (torch.from_numpy(weights.bases).float() * used.unsqueeze(-1)).sum(dim=2)
        if weights.position_major:
            groups = groups.transpose(1, 2)
        layer = module.get_submodule(name)
        layer.weight = nn.Parameter(groups.reshape(layer.weight.shape), requires_grad=False)  # type: ignore[arg-type]


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
