"""Activation quantizers that are modules of their own, and the layers whose inputs they quantize.

Such a module becomes the input quantizer of the quantized layers that read its values, and goes
where nothing else reads them. Elsewhere, as before a shortcut or an average, it becomes a layer
that multiplies levels with 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from apot_export.errors import RecognitionError
from apot_export.original import primitives as p
from apot_export.original.custom._agreement import Call, probes
from apot_export.original.custom._layers import (
    FoundLayer,
    WeightedLayer,
    found_quantizer,
    threshold_replacement,
)
from apot_export.original.original import Observed
from apot_export.original.quantization import SIGNED, UNSIGNED
from apot_export.original.quantized_layers import QuantConv2d, QuantLinear, ThresholdLayer
from apot_export.original.tracing import trace

_PROBES = 4096
_LIKELY = 4
"""Numbers that a quantizer's result has for each different one, at least."""
_IMAGE_AXES = 3
_ROUNDING = 1e-6
"""Of a threshold: how far a level may be from itself."""


def quantizers(module: nn.Module, names: Mapping[nn.Module, str]) -> dict[nn.Module, FoundLayer]:
    """Return the modules that may quantize activations: with numbers, without weighted layers."""
    found: dict[nn.Module, FoundLayer] = {}
    weighted = {part for layer in names for part in layer.modules()}
    for name, part in module.named_modules():
        is_foreign = not type(part).__module__.startswith("torch.")
        if is_foreign and not weighted.intersection(part.modules()):
            one = found_quantizer(name, part)
            if one.activations or one.several:
                found[part] = one
    return found


def shown(module: nn.Module, calls: Sequence[Call], found: FoundLayer) -> list[Call] | None:
    """Return calls of a module as of one channel; None where it quantizes nothing."""
    if not all(len(given) == 1 and _is_like(given[0], result) for given, result in calls):
        return None
    more = probes(module, calls, found.activations.values(), _PROBES)
    flat = [
        (given[0].reshape(1, 1, -1, 1), result.reshape(1, 1, -1, 1))
        for given, result in (*calls, *more)
    ]
    both = (np.concatenate([one[side].numpy().ravel() for one in flat]) for side in (0, 1))
    given, results = (len(np.unique(values)) for values in both)
    is_quantizer = results > 1 and results * _LIKELY <= given
    return [((one,), result) for one, result in flat] if is_quantizer else None


def _is_like(given: Any, result: Any) -> bool:
    tensors = isinstance(given, torch.Tensor) and isinstance(result, torch.Tensor)
    return tensors and given.shape == result.shape


def as_layer(name: str, chosen: nn.Module, calls: Sequence[Call]) -> WeightedLayer:
    """Return a layer that quantizes its input and multiplies it with 1.

    Args:
        name: The user's module's.
        chosen: Our layer that computes the same of one channel.
        calls: Of the user's module.

    Raises:
        RecognitionError: Inputs have different sizes, or other axes than layers read.
    """
    assert isinstance(chosen, QuantConv2d)
    shapes = {tuple(given[0].shape[1:]) for given, _ in calls}
    sizes = {(len(shape), shape[0]) for shape in shapes}
    if len(sizes) != 1 or len(next(iter(shapes))) not in (1, _IMAGE_AXES):
        raise RecognitionError(
            "An activation quantizer reads values of different sizes.",
            where=name,
            expected="[N, C, H, W] or [N, features], always of as many channels",
            got=", ".join(str(["N", *shape]) for shape in sorted(shapes)),
            fix="use one quantizer for each",
        )
    ((axes, channels),) = sizes
    like: nn.Conv2d | nn.Linear
    if axes == 1:
        like = nn.Linear(channels, channels, bias=False)
        like.weight.data = torch.eye(channels)
    else:
        like = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
        like.weight.data.fill_(1)
    one = torch.ones(())
    made = threshold_replacement(like, chosen.quantization, one, chosen.act_alpha)
    return made.eval().requires_grad_(requires_grad=False)


def join(module: nn.Module, stubs: Mapping[str, WeightedLayer], observed: Observed) -> Observed:
    """Let layers quantize what quantizers before them do, and take these out where nothing is lost.

    Args:
        module: The rebuilt network, with `stubs` in it; changed in place.
        stubs: Layers of `as_layer`, by name.
        observed: A run of the user's network.

    Returns:
        The same run; inputs of layers that quantize them now are those that are not quantized.
    """
    if not stubs:
        return observed
    traced = trace(module, observed.images.shape[1:])
    places: dict[str, list[fx.Node]] = {}
    for node in traced.graph.nodes:
        if node.op == "call_module":
            places.setdefault(str(node.target), []).append(node)
    joined: set[str] = set()
    for name, found in places.items():
        layer = traced.get_submodule(name)
        if not isinstance(layer, (QuantConv2d, QuantLinear)) or layer.quantizes_input:
            continue
        sources = {_source(node.all_input_nodes[0], stubs) for node in found}
        source = sources.pop()
        made = _joined(layer, stubs[source], observed.calls[name]) if source else None
        if made and not sources:
            module.set_submodule(name, made)
            joined.add(name)
    calls = dict(observed.calls)
    for name in stubs:
        moved = dict(calls)
        if all(
            _move(moved, place, call, places, joined)
            for place, call in zip(places[name], calls[name], strict=True)
        ):
            module.set_submodule(name, nn.Identity())
            calls = moved
    return dataclasses.replace(observed, calls=calls)


def _source(node: fx.Node, stubs: Collection[str]) -> str | None:
    """Return the quantizer whose numbers a value has, and perhaps zeros; None where none is."""
    while not (node.op == "call_module" and str(node.target) in stubs):
        is_choice = node.target in (*p.CHOICES, p.rectify, p.clip)
        if not is_choice or len(node.all_input_nodes) != 1:
            return None
        node = node.all_input_nodes[0]
    return str(node.target)


def _joined(
    layer: QuantConv2d | QuantLinear, stub: WeightedLayer, calls: Sequence[tuple[Any, Any]]
) -> nn.Conv2d | nn.Linear | None:
    """Return a layer with a quantizer of its input that leaves what it read as it was."""
    assert isinstance(stub, (QuantConv2d, QuantLinear))
    said = stub.quantization
    for sign in dict.fromkeys((said.activation_sign, "", SIGNED, UNSIGNED)):
        quantization = dataclasses.replace(
            layer.quantization,
            activation_bits=said.activation_bits,
            activation_method=said.activation_method,
            activation_sign=sign,
            legacy_divisor=said.legacy_divisor,
        )
        made = threshold_replacement(layer, quantization, layer.weight_alpha, stub.act_alpha)
        assert isinstance(made, ThresholdLayer)
        slack = _ROUNDING * float(stub.act_alpha.detach())
        if made.lowest_level() == stub.lowest_level() and all(
            np.allclose(made.quantized_input(torch.from_numpy(given)).detach(), given, atol=slack)
            for given, _ in calls
        ):
            return made.eval().requires_grad_(requires_grad=False)
    return None


def _move(
    calls: dict[str, Sequence[tuple[Any, Any]]],
    place: fx.Node,
    call: tuple[Any, Any],
    places: Mapping[str, Sequence[fx.Node]],
    joined: Collection[str],
) -> bool:
    """Give the readers of a quantizer's value its input; False where one needs the value itself."""
    given, result = call
    waiting = list(place.users)
    while waiting:
        reader = waiting.pop()
        if reader.op == "call_module" and str(reader.target) in joined:
            name = str(reader.target)
            found, number = list(calls[name]), places[name].index(reader)
            if not np.array_equal(found[number][0].ravel(), result.ravel()):
                return False
            found[number] = given.reshape(found[number][0].shape), found[number][1]
            calls[name] = found
        elif reader.users and reader.target is p.reshape:
            waiting += reader.users
        else:
            return False
    return True
