"""What a user's own module computed: its results, and the inputs and outputs of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """One run of a module in evaluation mode, hooks and all."""

    images: NDArray[np.float32]
    """[N, C, H, W]."""
    calls: Mapping[str, Sequence[tuple[NDArray[Any], NDArray[Any]]]]
    """Input and output of each call of a convolution or linear layer, by the layer's name."""
    results: Sequence[NDArray[Any]]
    """The tensors that it returned, in order."""
    hooks: tuple[str, ...]
    """What hangs on the module beside the code of its classes."""


def tensors_of(results: Any) -> list[torch.Tensor]:
    """Return the tensors in a structure of tuples, lists and dicts, in order."""
    found: list[torch.Tensor] = []

    def collect(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            found.append(value)
        return value

    fx.node.map_aggregate(results, collect)
    return found
