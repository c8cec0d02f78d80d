"""The trained network itself: a checkpoint rebuilt as the PyTorch module that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from apot_export.network.layers import MultiBitWeights, PowerOfTwoWeights
from apot_export.original.architectures import Architecture
from apot_export.original.checkpoint import Checkpoint
from apot_export.original.choices import Choices
from apot_export.original.families import Family
from apot_export.original.observed import Observed
from apot_export.original.plan import LayerPlan
from apot_export.original.quantization import Quantization


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
