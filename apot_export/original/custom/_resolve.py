"""Bit-widths and level sets of a network's layers: what its objects say, then what is said of it.

What an object says and what the user says must not contradict each other; a checkpoint's name is
asked only where neither says anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from apot_export.errors import BitWidthError, CodebookError, RecognitionError
from apot_export.original import families
from apot_export.original.choices import Choices
from apot_export.original.custom._layers import ThresholdLayer
from apot_export.original.naming import (
    bits_from_name,
    grid_from_name,
    method_from_name,
    require_method,
)
from apot_export.original.quantization import GRIDS, LayerBits, LayerPlan, Quantization

_NETWORK = "network"
_OPTION = "option"
_DEFAULT = "default"
_TERNARY_BITS = 2


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The quantization of every layer with thresholds, and where it was learned."""

    quantization: Mapping[str, Quantization]
    """By layer; empty for a network without thresholds."""
    choices: Choices
    """The user's, with what a name said put in: they need no name."""
    bits_from: str
    method_from: str
    grid_from: str


def resolve(
    found: Sequence[ThresholdLayer],
    ours: Mapping[str, Quantization],
    choices: Choices,
    path: Path | None,
) -> Resolved:
    """Decide how every layer quantizes.

    Args:
        found: Layers of other codes.
        ours: Quantization of our own layers, which say everything.
        choices: What the user said.
        path: The checkpoint, whose name may say what nothing else does; None if there is none.

    Raises:
        RecognitionError: The layers are of more than one family.
        BitWidthError: A bit-width is not known, contradictory, or not offered by the family.
        CodebookError: A level set or grid is contradictory.
    """
    if not found and not ours:
        return Resolved(
            quantization={},
            choices=choices,
            bits_from="checkpoint",
            method_from=_DEFAULT,
            grid_from=_DEFAULT,
        )
    _require_one_family(found, ours)
    exceptions = _exceptions([*[layer.name for layer in found], *ours], choices)
    complete, sources = _with_names(found, choices, exceptions, path)
    quantization = {
        layer.name: _of_layer(layer, complete, exceptions.get(layer.name)) for layer in found
    }
    for name, own in ours.items():
        _require_bits(name, own.weight_bits, choices.bits, exceptions.get(name))
        quantization[name] = own
    return Resolved(quantization=quantization, choices=complete, **sources)


def _require_one_family(found: Sequence[ThresholdLayer], ours: Mapping[str, Quantization]) -> None:
    families = {layer.family: layer.name for layer in found}
    families |= {own.family: name for name, own in ours.items()}
    if len(families) > 1:
        raise RecognitionError(
            "The network's layers are of more than one family.",
            expected="layers of one training code",
            got=", ".join(f"{name}: {family}" for family, name in families.items()),
        )


def _exceptions(names: Sequence[str], choices: Choices) -> dict[str, LayerBits]:
    """Return the bit-widths that the user gave to layers by name."""
    base = Quantization(family="", weight_bits=0, activation_bits=0)
    plan = LayerPlan(default=base, exceptions=choices.layer_bits)
    plan.for_layers(names)  # raises unless every pattern matches
    return {
        name: exception
        for exception in choices.layer_bits
        for name in names
        if fnmatchcase(name, exception.pattern)
    }


def _with_names(
    found: Sequence[ThresholdLayer],
    choices: Choices,
    exceptions: Mapping[str, LayerBits],
    path: Path | None,
) -> tuple[Choices, dict[str, str]]:
    """Ask the checkpoint's name for what neither the layers nor the user say."""
    sources = {"bits_from": _NETWORK, "method_from": _NETWORK, "grid_from": _DEFAULT}
    silent = [layer for layer in found if layer.bits is None and layer.name not in exceptions]
    bits = choices.bits
    if bits is not None:
        sources["bits_from"] = _OPTION
    elif silent:
        named = bits_from_name(path) if path is not None else None
        if named is None:
            raise BitWidthError(
                "The bit-width of a layer is not known: its object does not say it.",
                where=silent[0].name,
                expected="an attribute `bit`, or a name such as res20_4bit/model_best.pth.tar",
                fix="say it: --bits N",
            )
        bits, sources["bits_from"] = named.bits, named.source
    elif path is not None:
        _require_name_agrees(path, found)
    method = choices.method
    if method is not None:
        require_method(method)
        sources["method_from"] = _OPTION
    elif any(layer.power is None and layer.activation_levels is None for layer in found):
        named_method, sources["method_from"] = (
            method_from_name(path) if path is not None else ("apot", _DEFAULT)
        )
        method = named_method if sources["method_from"] != _DEFAULT else None
    grid, sources["grid_from"] = _grid(found, choices, path)
    return dataclasses.replace(choices, bits=bits, method=method, grid=grid), sources


def _require_name_agrees(path: Path, found: Sequence[ThresholdLayer]) -> None:
    """Raise `BitWidthError` where a name states a bit-width that no layer has."""
    try:
        named = bits_from_name(path)
    except BitWidthError:
        return  # it states several, and none is needed
    held = {layer.bits for layer in found}
    if named is None or not held or named.bits in held:
        return
    raise BitWidthError(
        "The checkpoint's name states another bit-width than the network's layers.",
        where=str(path),
        expected=f"{', '.join(sorted(map(str, held)))} bits, which the layers say themselves",
        got=f"{named.bits} bits from the {named.source}",
        fix="build the network with the bit-width that it was trained with (--model-kwarg), or "
        "confirm that of its layers: --bits N",
    )


def _grid(
    found: Sequence[ThresholdLayer], choices: Choices, path: Path | None
) -> tuple[str | None, str]:
    if choices.grid is not None:
        if choices.grid not in GRIDS:
            raise CodebookError(
                "There is no such grid.", expected=" or ".join(GRIDS), got=repr(choices.grid)
            )
        return choices.grid, _OPTION
    nonzero = [layer for layer in found if layer.family == "nonzero"]
    if any(layer.weight_levels is not None for layer in nonzero):
        return None, _NETWORK
    named = grid_from_name(path) if path is not None and nonzero else None
    return (named, "folder name") if named else (None, _DEFAULT)


def _of_layer(layer: ThresholdLayer, choices: Choices, exception: LayerBits | None) -> Quantization:
    _require_bits(layer.name, layer.bits, choices.bits, exception)
    said = exception.weight_bits if exception else choices.bits
    bits = layer.bits if layer.bits is not None else said
    if bits is None:
        raise TypeError(f"{layer.name}: no bit-width")
    activation_bits = exception.activation_bits if exception else choices.activation_bits
    base = Quantization(
        family=layer.family,
        weight_bits=bits,
        activation_bits=activation_bits or bits,
        legacy_divisor=choices.legacy_divisor,
        normalize_weights=choices.normalize_weights,
        unsigned_zeros=choices.unsigned_zeros,
    )
    fitting = layer.fitting(base)
    wanted = [
        candidate
        for candidate in fitting
        if choices.method in (None, candidate.method)
        and choices.grid in (None, candidate.grid)
        and (choices.z is None or (candidate.grid, candidate.z) == ("nonzero", choices.z))
    ]
    if not wanted:
        raise _contradiction(layer, base, choices, fitting)
    chosen = wanted[0]
    if chosen.grid == "nonzero" and choices.z is None and layer.weight_levels is None:
        raise BitWidthError(
            "The exponent Z of the non-zero grid is not known: the layer does not hold it.",
            where=layer.name,
            expected="the Z that the network was trained with",
            fix="say it: --z N",
        )
    offered = families.by_name(layer.family).bit_widths(chosen.method)
    for width in (chosen.weight_bits, chosen.activation_bits):
        if width not in offered:
            raise BitWidthError(
                "A layer has a bit-width that its family does not offer.",
                where=layer.name,
                expected=f"{', '.join(map(str, offered))} bits "
                f"(family {layer.family}, level set {chosen.method})",
                got=f"{width} bits",
                fix="say the bit-width that the network was trained with: --bits N",
            )
    return chosen


def _require_bits(
    name: str, held: int | None, said: int | None, exception: LayerBits | None
) -> None:
    """Raise `BitWidthError` where a layer's own bit-width is not what the user said of it."""
    said = exception.weight_bits if exception else said
    if held is not None and said is not None and held != said:
        raise BitWidthError(
            "A layer of the network has another bit-width than was said.",
            where=name,
            expected=f"{held} bits, which the layer says itself",
            got=f"{said} bits",
            fix="leave out --bits, or build the network with the bit-width that it was trained "
            "with (--model-kwarg)",
        )


def _contradiction(
    layer: ThresholdLayer,
    base: Quantization,
    choices: Choices,
    fitting: Sequence[Quantization],
) -> CodebookError:
    said = [choices.method or "any level set"]
    if layer.family == "nonzero" and base.weight_bits == _TERNARY_BITS:
        said += [choices.grid or "any grid", f"Z {choices.z}" if choices.z else "any Z"]
    held = sorted({f"{each.method} ({each.grid})" for each in fitting})
    return CodebookError(
        "A layer's level set is not what was said of it, or none that its family has.",
        where=layer.name,
        expected=" or ".join(held) or f"one of {base.weight_bits}-bit {layer.family}",
        got=", ".join(said) if held else "another level set in the layer's own tensors",
        fix="leave out --method, --grid and --z, or name the factory that it was trained with",
    )
