"""What a checkpoint does not say of itself: bit-widths, level set and grid, for every layer."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from apot_export.errors import BitWidthError

if sys.version_info >= (3, 11):
    pass
else:
    pass

FULL_PRECISION_BITS = 32
"""The bit-width that stands for float weights and activations."""

METHODS = ("apot", "pot", "uniform")
GRIDS = ("zero", "nonzero")


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
    """Level set: "apot" (sums of powers of two), "pot" (single powers) or "uniform"."""
    grid: str = "zero"
    """Levels of 2-bit weights of the non-zero family: "zero" {0, 1} or "nonzero" {2 ** -z, 1}."""
    z: int = 2
    """Exponent of the non-zero grid's lower level."""
    legacy_divisor: bool = False
    """Uniform activations divided by 2 ** (bits - 1) - 1, as code before 2021-03-20 did."""
    normalize_weights: bool = True
    """Weights are centred and divided by their standard deviation first; some forks do not."""
    unsigned_zeros: bool = False
    """Weights of level 0 become +0, whatever sign training left them."""


@dataclass(frozen=True, kw_only=True)
class LayerBits:
    """Bit-widths of the layers whose names match a pattern."""

    pattern: str
    """Shell-style pattern of dotted layer names."""
    weight_bits: int
    activation_bits: int


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """The quantization of every layer: a default, and exceptions by name."""

    default: Quantization
    exceptions: tuple[LayerBits, ...] = ()
    """Later ones win."""

    def for_layers(self, names: Iterable[str]) -> dict[str, Quantization]:
        """Return the quantization of each named layer.

        Raises:
            BitWidthError: An exception's pattern matches none of the layers.
        """
        found = dict.fromkeys(names, self.default)
        for exception in self.exceptions:
            matching = [name for name in found if fnmatchcase(name, exception.pattern)]
            if not matching:
                raise BitWidthError(
                    "A pattern of layer bit-widths matches no quantized layer.",
                    where=exception.pattern,
                    expected="one of " + ", ".join(list(found)[:4]) + ", ...",
                    fix="correct the pattern; * stands for any characters",
                )
            for name in matching:
                found[name] = dataclasses.replace(
                    found[name],
                    weight_bits=exception.weight_bits,
                    activation_bits=exception.activation_bits,
                )
        return found
