"""Recognise quantized layers of other codes by their tensors and attributes, and replace them."""

from __future__ import annotations

import itertools
import numbers
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from apot_export.errors import BitWidthError, RecognitionError
from apot_export.original import families
from apot_export.original.borders import TransposedConv2d
from apot_export.original.custom._state import attributes_of
from apot_export.original.families import Family
from apot_export.original.quantization import FULL_PRECISION_BITS, TERNARY_BITS, Quantization
from apot_export.original.quantized_layers import (
    FirstConv2d,
    LastLinear,
    QuantConv2d,
    QuantizedLayer,
    QuantLinear,
    ThresholdLayer,
    is_plain,
    like,
)
from apot_export.original.statements import LayerFacts

_FIRST_KINDS = ("FConv2d", "LFC")
"""What `layer_type` says of layers with 8-bit weights and float inputs."""
_WEIGHT_SETS = ("proj_set_weight", "grids", "grid")
_ACTIVATION_SETS = ("proj_set_act", "act_grid")
_BITS = ("bit", "bits", "nbit", "nbits", "n_bit", "n_bits", "num_bits", "bitwidth", "bit_width")
_WEIGHT_BITS = ("w_bit", "w_bits", "wbit", "wbits", "bit_w", "bits_w", "nbits_w", "weight_bits")
_ACTIVATION_BITS = ("a_bit", "a_bits", "abit", "abits", "bit_a", "bits_a", "nbits_a", "act_bits")
_KNOWN_WEIGHT, _KNOWN_ACTIVATION = ("weight_quant.wgt_alpha", "weight_alpha"), ("act_alpha",)
"""Names of thresholds in the families' codes; others are found by the tensors' sizes."""
_WEIGHT_WORDS = re.compile(r"w|wq|wt|wgt.*|weight.*")
_ACTIVATION_WORDS = re.compile(r"a|aq|x|act.*|inp.*")
_WORDS = re.compile(r"[._]|(?<=[a-z])(?=[A-Z])")
_RECOGNISED = (
    "plain Conv2d and Linear; a clipping threshold or step size of weights, and of inputs where "
    "they are quantized; layer_type FConv2d or LFC"
)

WeightedLayer = nn.Conv2d | nn.Linear
Thresholds = Mapping[str, torch.Tensor]
"""Numbers that may be a threshold or a step, by their dotted names in a layer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundLayer:
    """A layer with clipping thresholds or steps, and what its object states of quantization."""

    layer: WeightedLayer
    family: Family | None
    """The one whose thresholds it has; None where their names tell none."""
    weights: Thresholds
    activations: Thresholds
    """Of the input; empty for float inputs."""
    facts: LayerFacts
    other_bits: tuple[int, ...] = ()
    """Bit-widths that its weight quantizer may mean, beside that of the facts."""
    several: str = ""
    """Name of thresholds of inputs that differ by channel."""
    quantizes_inputs_alone: bool = False
    """Whether it stands for a module without weights."""


def weighted_layers(
    module: nn.Module,
) -> Iterator[tuple[str, WeightedLayer | nn.ConvTranspose2d]]:
    """Yield every convolution and linear layer by its first dotted name."""
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)):
            yield name, layer


def found_layer(name: str, layer: WeightedLayer, stated: str | None) -> FoundLayer | None:
    """Recognise a layer with thresholds or steps; None for any other layer.

    Args:
        name: The layer's.
        layer: Of the user's network.
        stated: Name of the family, if the user states it.

    Raises:
        RecognitionError: It quantizes its input alone.
    """
    bits = said_bits(layer, name)
    if isinstance(layer, QuantizedLayer) or bits == FULL_PRECISION_BITS:
        return None
    tensors = _tensors(layer)
    single = {key: value.reshape(()) for key, value in tensors.items() if value.numel() == 1}
    first = next((key for key in _KNOWN_WEIGHT if key in single), None)
    weights: Thresholds = {first: single[first]} if first else {}
    activations: Thresholds = {key: single[key] for key in _KNOWN_ACTIVATION if key in single}
    family = families.by_name(stated) if stated else None
    if weights and activations:
        keys = [*layer.state_dict(), *weights, *activations]
        family = families.recognise([f"{name}.{key}" for key in keys], stated)
    elif not (weights or activations) and (
        getattr(layer, "layer_type", None) in _FIRST_KINDS or is_plain(layer)
    ):
        return None
    else:
        weights, activations = _by_role(tensors, layer.weight)
    if not weights and not activations:
        return None
    if not weights:
        raise RecognitionError(
            "A layer with a clipping threshold is of no known family.",
            where=name,
            expected=f"thresholds of weights, and of the input or not ({_RECOGNISED})",
            got=f"{type(layer).__name__}: {', '.join(layer.state_dict())}",
        )
    facts, other_bits = _facts(name, layer, bits)
    return FoundLayer(
        layer=layer,
        family=family,
        weights=weights,
        activations=activations,
        facts=facts,
        other_bits=other_bits,
        several="" if activations else _several(tensors, layer.weight[0].shape[0]),
    )


def found_quantizer(name: str, module: nn.Module) -> FoundLayer:
    """Return what a module without weights is where it quantizes its input, as of one channel."""
    layer = nn.Conv2d(1, 1, 1, bias=False)
    layer.weight.data.fill_(1)
    tensors = _tensors(module)
    either, activations = _by_role(tensors, layer.weight)
    return FoundLayer(
        layer=layer,
        family=None,
        weights={"one": torch.ones(())},
        activations={**activations, **either},
        facts=LayerFacts(name=name, bits=said_bits(module, name, *_ACTIVATION_BITS, *_BITS)),
        several=_several(tensors, None),
        quantizes_inputs_alone=True,
    )


def _facts(name: str, layer: WeightedLayer, bits: int | None) -> tuple[LayerFacts, tuple[int, ...]]:
    """Return what a layer's object states, and further bits that it may mean."""
    inner = _weight_quantizer(layer)
    other_bits: tuple[int, ...] = ()
    inner_bits = said_bits(inner, f"{name}.weight_quant", *_WEIGHT_BITS, *_BITS)
    if inner_bits is not None:
        # It counts the bits of magnitudes, or all; its owner's attribute may be out of date.
        if bits not in (inner_bits, inner_bits + 1):
            bits = inner_bits + (bits is not None)
        other_bits = tuple({inner_bits, inner_bits + 1} - {bits})
    power = getattr(layer, "power", None)
    if power is None and bits != TERNARY_BITS:  # whose weights are rounded in any case
        power = getattr(inner, "power", None)
    facts = LayerFacts(
        name=name,
        bits=bits,
        activation_bits=said_bits(layer, name, *_ACTIVATION_BITS),
        power=power if isinstance(power, bool) else None,
        weight_levels=_level_set(_WEIGHT_SETS, layer, inner),
        activation_levels=_level_set(_ACTIVATION_SETS, layer, inner),
    )
    return facts, other_bits


def said_bits(layer: object, name: str, *attributes: str) -> int | None:
    """Return the bit-width that an object states, if it does.

    Args:
        layer: The object.
        name: Its own, for messages.
        attributes: Names under which it may; the usual ones of a layer unless given.

    Raises:
        BitWidthError: It is not a whole number.
    """
    for attribute in attributes or (*_BITS, *_WEIGHT_BITS):
        bits = getattr(layer, attribute, None)
        if bits is None:
            continue
        if isinstance(bits, torch.Tensor) and bits.numel() == 1 and bits.detach() % 1 == 0:
            bits = int(bits)
        if isinstance(bits, bool) or not isinstance(bits, numbers.Integral):  # numpy's, too
            raise BitWidthError(
                "A layer's bit-width is not a whole number.",
                where=f"{name}.{attribute}",
                got=repr(bits),
            )
        return int(bits)
    return None


def _tensors(layer: nn.Module) -> dict[str, torch.Tensor]:
    """Return a layer's numbers beside weight and bias, and those of its parts, by dotted name."""
    return {
        name: value.detach()
        for name, value in attributes_of(layer)
        if isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and name not in ("weight", "bias")
    }


def _says(name: str, words: re.Pattern[str]) -> bool:
    """Tell whether one of the words that a dotted name is made of is of a kind."""
    return any(words.fullmatch(word.lower()) for word in _WORDS.split(name))


def _by_role(tensors: Thresholds, weight: torch.Tensor) -> tuple[Thresholds, Thresholds]:
    """Return what may be the threshold of weights and of inputs, by sizes and names.

    A tensor whose name tells neither may be either. Weights may have one for each output.
    """
    outputs, axes = len(weight), (-1, *[1] * (weight.ndim - 1))
    roles: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = ({}, {})
    for name, value in tensors.items():
        if not bool((value != 0).all() and value.isfinite().all()):
            continue
        says = [_says(name, words) for words in (_WEIGHT_WORDS, _ACTIVATION_WORDS)]
        for role, said, other in zip(roles, says, says[::-1], strict=True):
            if (said or not other) and bool((value == value.flatten()[:1]).all()):
                role[name] = value.flatten()[0]
            elif role is roles[0] and not says[1] and value.numel() == outputs:
                role[name] = value.reshape(axes)
    return roles


def _several(tensors: Thresholds, inputs: int | None) -> str:
    """Return the name of what may be thresholds of input channels that are not equal."""
    for name, value in tensors.items():
        is_fitting = inputs is None or (value.numel() == inputs and _says(name, _ACTIVATION_WORDS))
        if is_fitting and bool((value > 0).all() and (value != value.flatten()[:1]).any()):
            return name
    return ""


def require_one_threshold(found: FoundLayer) -> None:
    """Raise `RecognitionError` for a layer whose input channels have thresholds of their own."""
    if found.several:
        raise RecognitionError(
            "Thresholds of a layer's input differ by channel.",
            where=f"{found.facts.name}.{found.several}",
            expected="one for all channels: products of one sum have one scale, or the sum is no "
            "integer",
            got="several different numbers",
            fix="train with one threshold for each layer's input; weights may have one a channel",
        )


def _weight_quantizer(layer: nn.Module) -> nn.Module | None:
    """Return the part of a layer that quantizes its weights, by its name."""
    return next((part for name, part in layer.named_children() if _says(name, _WEIGHT_WORDS)), None)


def float_replacement(name: str, layer: WeightedLayer) -> WeightedLayer | None:
    """Return our own layer for one without thresholds; None where it can stay as it is.

    Raises:
        RecognitionError: It overrides what it computes, and nothing says how.
    """
    if isinstance(layer, QuantizedLayer):
        return None
    if getattr(layer, "layer_type", None) in _FIRST_KINDS:
        return eight_bit_replacement(name, layer)
    if said_bits(layer, name) == FULL_PRECISION_BITS or "weight" not in layer._parameters:  # noqa: SLF001 - weights that pruning or parametrizations make
        return _made(layer, nn.Conv2d, nn.Linear)
    if not is_plain(layer):
        raise RecognitionError(
            "A layer of the network computes something that nothing is known of.",
            where=name,
            expected=_RECOGNISED,
            got=f"{type(layer).__name__} with its own forward pass",
            fix="use the training codes' layers or apot_export.original.quantized_layers",
        )
    return None


def eight_bit_replacement(name: str, layer: WeightedLayer | nn.ConvTranspose2d) -> WeightedLayer:
    """Return a layer with 8-bit weights and float inputs, around a layer's tensors.

    Raises:
        RecognitionError: It is a transposed convolution.
    """
    if isinstance(layer, (nn.ConvTranspose2d, TransposedConv2d)):
        raise RecognitionError(
            "A transposed convolution has no 8-bit weights.",
            where=name,
            expected="a convolution or linear layer",
            got="ConvTranspose2d",
            fix="leave it in float: leave out --first-last 8bit",
        )
    made = _made(layer, FirstConv2d, LastLinear)
    return made.eval().requires_grad_(requires_grad=False)


def threshold_replacement(
    layer: WeightedLayer,
    quantization: Quantization | None,
    weight_alpha: torch.Tensor | None = None,
    act_alpha: torch.Tensor | None = None,
) -> WeightedLayer:
    """Return our layer for one with thresholds; without a quantization a plain one."""
    if quantization is None:
        return _made(layer, nn.Conv2d, nn.Linear)
    thresholds = {"weight_alpha": weight_alpha, "act_alpha": act_alpha}
    made = _made(layer, QuantConv2d, QuantLinear, thresholds, quantization=quantization)
    assert isinstance(made, ThresholdLayer)
    made.reset_level_sets()
    return made


def _made(
    layer: WeightedLayer,
    convolution: type[nn.Conv2d],
    linear: type[nn.Linear],
    thresholds: Mapping[str, torch.Tensor | None] | None = None,
    **options: Any,
) -> WeightedLayer:
    """Return a layer of one of two kinds with copies of a layer's tensors, on the CPU."""
    tensors = {"weight": layer.weight, "bias": layer.bias, **(thresholds or {})}
    kind = convolution if isinstance(layer, nn.Conv2d) else linear
    with torch.device("meta"):
        made: WeightedLayer = like(layer, kind, **options)
    for key, value in tensors.items():
        if value is not None:
            setattr(made, key, nn.Parameter(value.detach().cpu().clone()))
    return made


def _level_set(names: tuple[str, ...], *holders: object) -> torch.Tensor | None:
    """Return the first level set under one of these names, as float32 on the CPU."""
    for name, holder in itertools.product(names, holders):
        value = getattr(holder, name, None)
        if isinstance(value, torch.Tensor) and value.numel():
            return value.detach().cpu().float()
    return None
