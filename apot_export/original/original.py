"""The trained network itself: a checkpoint rebuilt as the PyTorch module that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from apot_export.network.layers import MultiBitWeights
from apot_export.original.architectures import Architecture
from apot_export.original.checkpoint import Checkpoint
from apot_export.original.choices import Choices
from apot_export.original.families import Family
from apot_export.original.quantization import LayerPlan, Quantization

_ACTIVATION_ALPHA = ".act_alpha"
_WEIGHT_ALPHA = ".weight_alpha"


@dataclass(frozen=True, kw_only=True, eq=False)
class Original:
    """A checkpoint, what it was recognised as, and its module in evaluation mode on the CPU."""

    checkpoint: Checkpoint | None
    """None for a network that was given as a module."""
    family: Family
    architecture: Architecture
    plan: LayerPlan
    bits_from: str
    """Where the bit-width was learned: "option", "file name", "folder name", "network" or
    "checkpoint"."""
    method_from: str
    """Where the level set was learned: "option", "file name", "folder name", "network" or
    "default"."""
    grid_from: str
    """Where the grid was learned: "option", "folder name", "network" or "default"."""
    module: nn.Module
    multi_bit: Mapping[str, MultiBitWeights]
    """Weights as scaled sign vectors, by layer."""
    state_sha256: str | None = None
    """Digest of the state dict of a network of the user's own."""
    alpha_terms: int = 0
    """Powers of two that coordinates of multi-bit weights were rounded to sums of; 0: none."""
    custom_choices: Choices | None = None
    """Choices that need no name to rebuild a network of the user's own."""

    @property
    def quantization(self) -> Quantization:
        """The quantization of layers without a bit-width of their own."""
        return self.plan.default
