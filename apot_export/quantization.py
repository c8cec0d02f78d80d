"""What a checkpoint does not say of itself: bit-widths, level set and grid, for every layer."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from apot_export.errors import BitWidthError, CodebookError

FULL_PRECISION_BITS = 32
"""The bit-width that stands for float weights and activations."""

_BITS_IN_NAME = re.compile(r"(?<!\d)(\d{1,2})[-_]?bit", re.IGNORECASE)

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
class BitWidth:
    """A bit-width and where it was learned."""

    bits: int
    source: str
    """"option", "file name", "folder name" or "checkpoint" (no clipping thresholds in it)."""


def bits_from_name(path: Path) -> BitWidth | None:
    """Read a bit-width such as `4bit` from a checkpoint's file name, else from its folder's.

    Raises:
        BitWidthError: One name states two bit-widths.

    >>> from pathlib import Path
    >>> bits_from_name(Path("res20_3bit/model_best.pth.tar"))
    BitWidth(bits=3, source='folder name')
    """
    for name, source in ((path.name, "file name"), (path.absolute().parent.name, "folder name")):
        found = {int(number) for number in _BITS_IN_NAME.findall(name)}
        if len(found) > 1:
            raise BitWidthError(
                "A name states more than one bit-width.",
                where=str(path),
                got=", ".join(f"{bits} bit" for bits in sorted(found)),
                fix="say which it is with --bits N",
            )
        if found:
            return BitWidth(bits=found.pop(), source=source)
    return None


def require_offered(width: BitWidth, family: str, offered: Sequence[int], where: Path) -> None:
    """Raise `BitWidthError` unless a bit-width is one that a family's training code offers."""
    if width.bits not in offered:
        has = "no clipping thresholds" if offered == (FULL_PRECISION_BITS,) else "it has thresholds"
        raise BitWidthError(
            f"The {width.source} says {width.bits} bits, which does not fit the checkpoint.",
            where=str(where),
            expected=f"{', '.join(map(str, offered))} bits (family {family}: {has})",
            got=f"{width.bits} bits from the {width.source}",
            fix="say the bit-width that the network was trained with: --bits N",
        )


def require_method(method: str) -> None:
    """Raise `CodebookError` unless there is a level set of this name."""
    if method not in METHODS:
        raise CodebookError(
            "There is no such level set.",
            expected=" or ".join(METHODS),
            got=repr(method),
            fix="name one of these with --method, or leave it out",
        )


def method_from_name(path: Path) -> tuple[str, str]:
    """Return the level set that a checkpoint's names state, and which of them did.

    Published runs with uniform levels carry the word in their name; all others are additive.

    >>> from pathlib import Path
    >>> method_from_name(Path("resnet10_4bit_uniform/model_best.pth.tar"))
    ('uniform', 'folder name')
    >>> method_from_name(Path("res20_4bit/model_best.pth.tar"))
    ('apot', 'default')
    """
    for name, source in ((path.name, "file name"), (path.absolute().parent.name, "folder name")):
        if "uniform" in name.lower():
            return "uniform", source
    return "apot", "default"
