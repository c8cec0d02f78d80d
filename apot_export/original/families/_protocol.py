"""The interface of a checkpoint family."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from apot_export.network.codebook import Codebook
from apot_export.original.quantization import Quantization


@dataclass(frozen=True, kw_only=True)
class WeightRule:
    """How a family projects weights: see `apot_export.network.WeightQuantizer`."""

    codebook: Codebook
    rule: str
    candidates: tuple[int, ...] = ()
    zeros: str = "sign"


@dataclass(frozen=True, kw_only=True)
class ActivationRule:
    """How a family projects activations: see `apot_export.network.ActivationQuantizer`."""

    codebook: Codebook
    input_denominator: int
    """Levels between 0 and the threshold on the input side."""
    passes_negative_inputs: bool = False
    """Whether inputs below 0 become levels below 0, which unsigned codes cannot hold."""


class Family(Protocol):
    """One checkpoint family."""

    @property
    def name(self) -> str:
        """Stable name, written into exports."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Level sets that the family's training code offers."""

    @property
    def has_eight_bit_layers(self) -> bool:
        """Whether first and last layers have 8-bit weights."""

    def bit_widths(self, method: str) -> tuple[int, ...]:
        """Return the nominal bit-widths that the family offers for a level set."""

    def recognises(self, keys: Iterable[str]) -> bool:
        """Tell whether a state dict with these keys is of this family."""

    def canonical_key(self, key: str) -> str | None:
        """Return a key's name in `quantized_layers`; None for keys that evaluation ignores."""

    def weight_rule(self, quantization: Quantization) -> WeightRule:
        """Return the projection of weights."""

    def activation_rule(self, quantization: Quantization) -> ActivationRule:
        """Return the projection of activations."""

    def alpha_line(self, weight_alpha: float, activation_alpha: float) -> str:
        """Format a layer's thresholds exactly as the family's own training code prints them."""
