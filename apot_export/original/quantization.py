"""The quantization of one layer: bit-widths, level set and grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from apot_export.arguments import require_fields

FULL_PRECISION_BITS = 32
"""The bit-width that stands for float weights and activations."""

LAYER_BITS = "bit-width of "
"""What states bits that were given for one layer, before its name."""

TERNARY_BITS = 2
"""A sign and one magnitude bit: weights of at most three levels, which most codes round."""

METHODS = ("apot", "pot", "uniform")
GRIDS = ("zero", "nonzero")
EIGHT_BIT, FLOAT = "8bit", "float"
FIRST_LAST = (EIGHT_BIT, FLOAT)
"""Weights of the first convolution and the last linear layer: integers / 127, or float32."""
ACTIVATION_SIGNS = SIGNED, UNSIGNED = "signed", "unsigned"
POWER_OF_TWO_LAYERS = AUTO, OFF = "auto", "off"
"""Whether plain layers are looked at for weights that are sums of powers of two."""
CLIPPED_ABOVE = "clipped from above only"
"""The sign of activations whose training code lets negative inputs pass."""

OPTION, FILE_NAME, FOLDER_NAME = "option", "file name", "folder name"
NETWORK = "network"
"""The source of what the layers of a custom network state and compute."""
ARCHITECTURE = "architecture"
"""The source of what the published networks of an architecture have in common."""
CHECKPOINT = "checkpoint"
"""The source of what the keys of a checkpoint tell."""
FAMILY = "family"
"""The source of what the training code of a family always does."""
STATISTICS = "batch-norm statistics"
"""The source of what the means that batch-norms remember decide: see `witness`."""
WEIGHTS = "found in the weights"
"""The source of what the numbers of a layer's weights tell."""
ASSUMPTION = "assumption"
"""The source of what nothing states: what most training runs did."""

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Stated(Generic[T_co]):
    """One part of a quantization, and the source that states it."""

    value: T_co
    source: str
    """One of the sources above."""


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How a quantized layer quantizes."""

    family: str
    """Name of the checkpoint family."""
    weight_bits: int
    """Nominal bits of a weight, the sign included; 32 for float."""
    activation_bits: int
    """Nominal bits of an activation; 32 for float."""
    method: str = "apot"
    """Level set of weights: "apot" (sums of powers of two), "pot" (single powers) or "uniform"."""
    activation_method: str = ""
    """Level set of activations, likewise; if it is left out, that of weights."""
    grid: str = "zero"
    """Levels of 2-bit weights of the non-zero family: "zero" {0, 1} or "nonzero" {2 ** -z, 1}."""
    z: int = 2
    """Exponent of the non-zero grid's lower level."""
    activation_sign: str = ""
    """What becomes of inputs below 0: "signed" ones are clipped at the negative threshold,
    "unsigned" ones at 0; "" for what the family's code does. Signed levels are uniform:
    2 ** (bits - 1) - 1 above 0 and as many below."""
    legacy_divisor: bool = False
    """Uniform activations divided by 2 ** (bits - 1) - 1, as code before 2021-03-20 did."""
    normalize_weights: bool = True
    """Weights are centred and divided by their standard deviation first; some forks do not."""
    unsigned_zeros: bool = False
    """Weights of level 0 become +0, whatever sign training left them."""

    @property
    def quantizes_inputs(self) -> bool:
        """Whether activations are quantized, rather than float."""
        return self.activation_bits != FULL_PRECISION_BITS

    @property
    def signed_activations(self) -> bool:
        """Whether activations have as many levels below 0 as above."""
        return self.activation_sign == SIGNED

    def __post_init__(self) -> None:
        if not self.activation_method:
            object.__setattr__(self, "activation_method", self.method)


@dataclass(frozen=True, kw_only=True)
class LayerBits:
    """Bit-widths of the layers whose names match a pattern; 32 bits leave a layer in float."""

    pattern: str
    """Shell-style pattern of dotted layer names."""
    weight_bits: int
    activation_bits: int

    def __post_init__(self) -> None:
        require_fields(self)

    @property
    def is_float(self) -> bool:
        """Whether the layers are not quantized at all."""
        return self.weight_bits == self.activation_bits == FULL_PRECISION_BITS
