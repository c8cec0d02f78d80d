"""The base class of checkpoint families."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from apot_export.errors import BitWidthError
from apot_export.network.codebook import Codebook
from apot_export.original.quantization import (
    ASSUMPTION,
    EIGHT_BIT,
    FAMILY,
    FULL_PRECISION_BITS,
    TERNARY_BITS,
    Quantization,
    Stated,
)


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
    """Whether inputs below 0 become levels below 0, without a lowest one."""


class Family(ABC):
    """One checkpoint family: how its training code names tensors and quantizes layers.

    Encoding reads `weight_rule` and `activation_rule`, which describe integers; the PyTorch
    original reads the attributes, which describe the training code's float operations. Neither is
    computed from the other, so that an error in one cannot hide in the comparison of both.
    """

    name: ClassVar[str]
    """Stable name, written into exports."""
    offered: ClassVar[Mapping[str, tuple[int, ...]]]
    """Level sets that the training code offers, and nominal bit-widths of each; the first is the
    default."""
    offered_activations: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    """Likewise of activations; empty where they have those of weights."""
    same_keys_as: ClassVar[str] = ""
    """Name of another family whose keys are the same."""
    summary: ClassVar[str] = ""
    """What tells the family from others with the same keys, for messages."""
    trees: ClassVar[Mapping[str, str]] = {}
    """Weights of first and last layers ("8bit" or "float") in each tree of the training code:
    "CIFAR", "MNIST", "ImageNet"."""
    other_first_last: ClassVar[str] = EIGHT_BIT
    """Likewise, for architectures that no tree of the code has."""
    has_sign_vectors: ClassVar[bool] = False
    """Whether weights are sums of scaled sign vectors."""
    had_legacy_divisor: ClassVar[bool] = False
    """Whether the code before 2021-03-20 divided uniform activations by another number."""
    exponents: ClassVar[range] = range(0)
    """Exponents Z that the non-zero grid of 2-bit weights may have; empty without such a grid."""
    preprocessing: ClassVar[str] = "apot-code"
    """Key of the means and deviations of `apot_export.datasets` that training used."""
    rounds_magnitudes: ClassVar[bool] = False
    """Whether uniform weights are sign times rounded magnitude, and activations below 0 pass the
    lower clip; else weights are rounded with their sign, and activations are clipped at 0."""
    adds_gradient_terms: ClassVar[bool] = False
    """Whether nearest levels q of scaled weights t are computed as (q - t) + t, which turns -0 into
    +0."""
    counts_steps: ClassVar[bool] = False
    """Whether weights are rounded multiples of their threshold, which is a step, and levels reach
    one step further below 0 than above."""
    divides_weight_levels: ClassVar[bool] = True
    """Whether the levels of weights are divided by the largest one."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the level sets that the training code offers."""
        return tuple(self.offered)

    @property
    def has_thresholds(self) -> bool:
        """Whether layers are quantized with clipping thresholds."""
        return (FULL_PRECISION_BITS,) not in self.offered.values()

    @property
    def activation_methods(self) -> tuple[str, ...]:
        """Names of the level sets that the training code offers for activations."""
        return tuple(self.offered_activations or self.offered)

    def bit_widths(self, method: str) -> tuple[int, ...]:
        """Return the nominal bit-widths that the family offers for a level set; none for others."""
        return self.offered.get(method, ())

    def activation_bit_widths(self, method: str) -> tuple[int, ...]:
        """Return the bit-widths that activations may have on a level set; none for others."""
        return (self.offered_activations or self.offered).get(method, ())

    def offers(self, quantization: Quantization) -> bool:
        """Tell whether the code has a quantization's bits on its level sets."""
        bits, method = quantization.activation_bits, quantization.activation_method
        return quantization.weight_bits in self.bit_widths(quantization.method) and (
            not quantization.quantizes_inputs or bits in self.activation_bit_widths(method)
        )

    def activation_method(self, method: str) -> Stated[str]:
        """Return the level set of activations beside one of weights, where no user states it."""
        if self.offered_activations:
            return Stated(self.activation_methods[0], FAMILY)
        return Stated(method, FAMILY if len(self.offered) == 1 else ASSUMPTION)

    def first_last(self, tree: str) -> Stated[str]:
        """Return the weights of first and last layers of an architecture, by its tree."""
        if tree in self.trees:
            return Stated(self.trees[tree], FAMILY)
        return Stated(self.other_first_last, ASSUMPTION)

    def has_grids(self, weight_bits: int) -> bool:
        """Tell whether weights of these bits have a grid with zero or one without."""
        return bool(self.exponents) and weight_bits == TERNARY_BITS

    @abstractmethod
    def recognises(self, keys: Collection[str]) -> bool:
        """Tell whether a state dict with these keys is of this family."""

    def canonical_key(self, key: str) -> str | None:
        """Return a key's name in `quantized_layers`; None for keys that evaluation ignores."""
        return key

    def weight_rule(self, quantization: Quantization) -> WeightRule:
        """Return the projection of weights.

        Raises:
            BitWidthError: The family has none, or not with these bits.
        """
        raise BitWidthError(f"The family {self.name} has no codebooks.", got=str(quantization))

    def activation_rule(self, quantization: Quantization) -> ActivationRule:
        """Return the projection of activations; errors as for `weight_rule`."""
        raise BitWidthError(f"The family {self.name} has no codebooks.", got=str(quantization))

    def alpha_line(self, weight_alpha: float, activation_alpha: float) -> str:
        """Format a layer's thresholds exactly as the family's own training code prints them."""
        raise BitWidthError(
            f"The family {self.name} has no clipping thresholds.",
            got=f"{weight_alpha}, {activation_alpha}",
        )
