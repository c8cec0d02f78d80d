"""What a checkpoint family must say of itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from apot_export.codebook import Codebook
from apot_export.quantization import Quantization


@dataclass(frozen=True, kw_only=True)
class WeightRule:
    """How a family projects weights: see `apot_export.network.WeightQuantizer`."""

    codebook: Codebook
    rule: str
    candidates: tuple[int, ...] = ()


class Dialect(Protocol):
    """One checkpoint family."""

    @property
    def name(self) -> str:
        """Stable name, written into exports."""

    @property
    def bit_widths(self) -> tuple[int, ...]:
        """Nominal bit-widths that the family's training code offers."""

    def recognises(self, keys: Iterable[str]) -> bool:
        """Tell whether a state dict with these keys is of this family."""

    def canonical_key(self, key: str) -> str:
        """Translate a key of the family into the name that `torch_layers` uses."""

    def weight_rule(self, quantization: Quantization) -> WeightRule:
        """Return the projection of weights."""

    def activation_codebook(self, quantization: Quantization) -> Codebook:
        """Return the levels of activations."""

    def alpha_line(self, weight_alpha: float, activation_alpha: float) -> str:
        """Format a layer's thresholds exactly as the family's own training code prints them."""
