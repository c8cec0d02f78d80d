"""Strings of the command line, read into values."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from apot_export.errors import BitWidthError, DatasetError, DeviceError, ModelError
from apot_export.original.quantization import LayerBits

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


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


def parse_arguments(texts: Iterable[str]) -> dict[str, Any]:
    """Parse `NAME=VALUE` pairs; a value that is no Python literal is a string.

    Raises:
        ModelError: A text is no such pair, or a name comes twice.

    >>> parse_arguments(["depth=20", "widths=(16, 32)", "kind=small"])
    {'depth': 20, 'widths': (16, 32), 'kind': 'small'}
    """
    arguments: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier() or name in arguments:
            raise ModelError(
                "An argument of the network's factory cannot be read.",
                expected="NAME=VALUE, every name once, e.g. --model-kwarg depth=20",
                got=text,
            )
        try:
            arguments[name] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            arguments[name] = value
    return arguments


def parse_numbers(text: str | None, option: str) -> list[float] | None:
    """Parse numbers separated by commas; None for an option that is not given.

    Raises:
        DatasetError: The text is not a list of numbers.
    """
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise DatasetError(
            f"The value of {option} is not a list of numbers.",
            expected="one number for each channel, separated by commas: 0.485,0.456,0.406",
            got=repr(text),
        ) from error


def parse_batch_size(text: str) -> int | None:
    """Parse a batch size; None for auto.

    Raises:
        DeviceError: The text is neither auto nor a whole number of at least 1.
    """
    if text == "auto":
        return None
    if not (text.isdecimal() and int(text)):
        raise DeviceError(
            "A batch size is a number.",
            where="--batch-size",
            expected="1 or more, or auto",
            got=repr(text),
        )
    return int(text)
