"""The trained network itself: a checkpoint rebuilt as the PyTorch module that it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from apot_export.network.layers import MultiBitWeights, PowerOfTwoWeights
from apot_export.original.architectures import Architecture
from apot_export.original.checkpoint import Checkpoint
from apot_export.original.choices import Choices
from apot_export.original.families import Family
from apot_export.original.quantization import ASSUMPTION, FAMILY, Quantization, Stated


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """The quantization of every layer with clipping thresholds, and the sources of its parts."""

    default: Quantization
    """That of most layers to which the user gave no bits by name."""
    layers: Mapping[str, Quantization]
    """By layer; without those that the user leaves in float."""
    bits: Stated[int]
    """The default's bits of weights."""
    activation_bits: Stated[int]
    method: Stated[str]
    """The default's level set of weights."""
    activation_method: Stated[str]
    activation_sign: Stated[str]
    """The default's; "" for what the family's code does."""
    grid: Stated[str]
    first_last: Stated[str]
    """Weights of the first convolution and the last linear layer: "8bit" or "float"."""
    floats: frozenset[str]
    """Layers that the user leaves in float, first and last ones among them."""
    choices: Choices
    """The user's, completed by what names state: they rebuild the plan without names."""

    def to_json(self) -> dict[str, Any]:
        """Return bits, level set and grid of weights as manifests and results store them."""
        parts = {"bits": self.bits, "method": self.method, "grid": self.grid}
        fields: dict[str, Any] = {}
        for name, part in parts.items():
            source = "default" if part.source in (ASSUMPTION, FAMILY) else part.source
            fields |= {name: part.value, f"{name}_from": source}
        return fields


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Original:
    """A checkpoint, what it was recognised as, and its module in evaluation mode on the CPU."""

    checkpoint: Checkpoint | None
    """None for a network that was given as a module."""
    family: Family
    architecture: Architecture
    plan: LayerPlan
    """The quantization of every layer, and what stated it."""
    module: nn.Module
    multi_bit: Mapping[str, MultiBitWeights]
    """Weights as scaled sign vectors, by layer."""
    powers_of_two: Mapping[str, PowerOfTwoWeights]
    """Plain layers whose weights turned out to be sums of powers of two."""
    choices: Choices
    """Choices that rebuild the network whatever the names of file and folder."""
    state_sha256: str | None = None
    """Digest of the state dict of a custom network."""
    observed: Observed | None = None
    """What a custom network computed before anything was done to it."""

    @property
    def quantization(self) -> Quantization:
        """The quantization of layers to which the user gave no bits by name."""
        return self.plan.default
