"""What a checkpoint does not say of itself: bit-widths, level set and grid, for every layer."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from apot_export.errors import BitWidthError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FULL_PRECISION_BITS = 32
"""The bit-width that stands for float weights and activations."""

METHODS = ("apot", "pot", "uniform")
GRIDS = ("zero", "nonzero")


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How a quantized layer quantizes."""

    family: str
    """Name of the checkpoint family (dialect)."""
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
class Plan:
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


def parse_layer_bits(text: str) -> LayerBits:
    """Parse `PATTERN=BITS` or `PATTERN=WEIGHT_BITS/ACTIVATION_BITS`.

    Raises:
        BitWidthError: The text is of neither form.

    >>> parse_layer_bits("layer1.*=4/2")
    LayerBits(pattern='layer1.*', weight_bits=4, activation_bits=2)
    """
    match = re.fullmatch(r"([^=]+)=(\d{1,2})(?:/(\d{1,2}))?", text.strip())
    if match is None:
        raise BitWidthError(
            "A layer's bit-width cannot be read.",
            expected="PATTERN=BITS or PATTERN=WEIGHT_BITS/ACTIVATION_BITS, e.g. 'layer1.*=3'",
            got=text,
        )
    weight_bits = int(match[2])
    return LayerBits(
        pattern=match[1].strip(),
        weight_bits=weight_bits,
        activation_bits=int(match[3]) if match[3] else weight_bits,
    )


def read_layer_bits(path: Path) -> tuple[LayerBits, ...]:
    """Read a TOML file of layer bit-widths.

    Raises:
        BitWidthError: The file cannot be read or is none.
    """
    try:
        return layer_bits_of_table(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BitWidthError(
            "The file of layer bit-widths cannot be read.",
            where=str(path),
            expected="a TOML file with a table [layers]",
            got=str(error),
        ) from error


def layer_bits_of_table(table: Mapping[str, Any], where: str) -> tuple[LayerBits, ...]:
    """Read a TOML document `[layers]`: pattern = bits, or { weights = w, activations = a }.

    Raises:
        BitWidthError: The document has another form.
    """
    layers = table.get("layers")
    if not isinstance(layers, Mapping) or set(table) != {"layers"}:
        raise BitWidthError(
            "A bit-width file must hold one table [layers].", where=where, got=", ".join(table)
        )
    found = []
    for pattern, bits in layers.items():
        pair = (bits, bits)
        if isinstance(bits, Mapping) and set(bits) == {"weights", "activations"}:
            pair = (bits["weights"], bits["activations"])
        if not all(isinstance(b, int) and not isinstance(b, bool) for b in pair):
            raise BitWidthError(
                "A layer's bit-width cannot be read.",
                where=f"{where}: {pattern}",
                expected="a number, or { weights = 4, activations = 2 }",
                got=str(bits),
            )
        found.append(LayerBits(pattern=pattern, weight_bits=pair[0], activation_bits=pair[1]))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a user says of a checkpoint; None where its name shall say it."""

    bits: int | None = None
    """Nominal bits of weights, and of activations unless they are given."""
    activation_bits: int | None = None
    method: str | None = None
    grid: str | None = None
    z: int | None = None
    legacy_divisor: bool = False
    normalize_weights: bool = True
    layer_bits: tuple[LayerBits, ...] = ()
    alpha_terms: int = 0
    """Powers of two that each coordinate of multi-bit weights becomes the sum of; 0: floats."""
    unsigned_zeros: bool = False
    """Make every weight of level 0 a +0, which no result of the network depends on."""

    def to_json(self) -> dict[str, Any]:
        """Return the form that manifests store."""
        return dataclasses.asdict(self)

    def remarkable(self) -> dict[str, Any]:
        """Return what differs from a full-precision network's choices."""
        plain = Choices(
            bits=FULL_PRECISION_BITS, activation_bits=self.bits, method="apot", grid="zero"
        )
        silent = plain.to_json()
        return {key: value for key, value in self.to_json().items() if value != silent[key]}

    @staticmethod
    def of_json(content: Mapping[str, Any]) -> Choices:
        """Read what `to_json` returned.

        Raises:
            TypeError: It is something else.
        """
        layer_bits = tuple(LayerBits(**entry) for entry in content["layer_bits"])
        return Choices(**{**content, "layer_bits": layer_bits})
