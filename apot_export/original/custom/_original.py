"""Rebuild a custom network with our layers, after comparing each with the user's."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from apot_export.errors import BitWidthError, ModelError, RecognitionError
from apot_export.network.layers import MultiBitWeights
from apot_export.original import families
from apot_export.original.architectures import Architecture
from apot_export.original.borders import TransposedConv2d
from apot_export.original.checkpoint import Checkpoint, load_checkpoint, require_finite
from apot_export.original.choices import Choices
from apot_export.original.custom._agreement import run
from apot_export.original.custom._factory import ImageShape, ModelSpec, build
from apot_export.original.custom._layers import (
    FoundLayer,
    WeightedLayer,
    eight_bit_replacement,
    float_replacement,
    found_layer,
    weighted_layers,
)
from apot_export.original.custom._matching import (
    Hypotheses,
    chosen_layers,
    chosen_quantizers,
    with_bits,
)
from apot_export.original.custom._quantizers import join, quantizers
from apot_export.original.custom._wrappers import drop_hooks, refresh_weights, unwrapped
from apot_export.original.families import Family
from apot_export.original.loading import load_state
from apot_export.original.multi_bit import multi_bit_layers, shorten_coordinates
from apot_export.original.original import LayerPlan, Original
from apot_export.original.powers_of_two import find_powers_of_two
from apot_export.original.quantization import (
    EIGHT_BIT,
    FLOAT,
    NETWORK,
    OPTION,
    Quantization,
    Stated,
)
from apot_export.original.quantized_layers import (
    FirstConv2d,
    LastLinear,
    QuantizedLayer,
    ThresholdLayer,
)
from apot_export.original.resolving import resolve


def load_custom(path: Path, choices: Choices, spec: ModelSpec) -> Original:
    """Load a checkpoint into a custom network, whose code this imports and runs.

    Raises:
        CheckpointError: The file cannot be loaded safely, or does not fit the network.
        ModelError: The network cannot be imported, built or run.
        BitWidthError: A bit-width is not given, or contradicts the network's.
        CodebookError: A level set or grid contradicts the network's.
    """
    checkpoint = load_checkpoint(path, choices.weights)
    require_finite(checkpoint.state)
    module = unwrapped(build(spec, (Path.cwd(), path.absolute().parent)))
    checkpoint = checkpoint.for_network(module.state_dict().keys())
    load_state(
        module,
        checkpoint.state,
        f"{spec.factory} of --model",
        fix="name the factory, and the arguments, that the network was trained with",
    )
    multi_bit = multi_bit_layers(checkpoint, checkpoint.state)
    return _original(module, spec.input_shape, choices, checkpoint, multi_bit)


def original_of_module(module: nn.Module, input_shape: ImageShape, choices: Choices) -> Original:
    """Rebuild a custom network that is in memory, which stays as it is.

    Raises:
        ModelError: The network does not run on such images.
        RecognitionError: A layer is of no known family, or computes something else.
        BitWidthError: A bit-width is not given, or contradicts the network's.
        CodebookError: A level set or grid contradicts the network's.
        WeightError: A tensor has values that are not finite.
    """
    inner = unwrapped(module)
    state = {key: value for key, value in inner.state_dict().items() if value.is_floating_point()}
    for key, value in state.items():
        if value.dtype != torch.float32:
            raise RecognitionError(
                "A tensor of the network has a type that the families do not use.",
                where=key,
                expected="float32",
                got=str(value.dtype),
                fix="convert the network in the precision of its training",
            )
    require_finite(state)
    return _original(inner, input_shape, choices, None, {})


def state_sha256(module: nn.Module) -> str:
    """Return a digest of a module's state dict: every tensor's key, type, shape and bytes."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        if isinstance(value, torch.Tensor):
            array = value.detach().cpu().contiguous().numpy()
            digest.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _original(
    module: nn.Module,
    input_shape: ImageShape,
    choices: Choices,
    checkpoint: Checkpoint | None,
    multi_bit: Mapping[str, MultiBitWeights],
) -> Original:
    digest = state_sha256(module)
    refresh_weights(module)
    names, found, ours, fixed = _recognised(module, choices)
    path = checkpoint.path if checkpoint else None
    family = _family(found, ours, multi_bit, choices.family)
    if family.has_thresholds:
        found = with_bits(found, ours, choices, path)
        plan = resolve(family, [layer.facts for layer in found], choices, path, ours=ours)
        choices = plan.choices
    else:
        plan = resolve(family, [], Choices(first_last=choices.first_last), None)
    possible = quantizers(module, names)
    watched = {**names, **{part: one.facts.name for part, one in possible.items()}}
    made = run(module, watched, input_shape)
    likely = family if family.has_thresholds else families.USUAL
    hypotheses = Hypotheses(family=likely, choices=choices)
    used = chosen_layers(made, names, fixed, found, plan, hypotheses)
    stubs = chosen_quantizers(made, possible, plan.default, hypotheses)
    used_names = [names[layer] for layer in names if layer in used]
    rebuilt = _rebuilt(module, {**used, **stubs})
    observed = join(rebuilt, {watched[part]: stub for part, stub in stubs.items()}, made.observed)
    plan = _as_computed(plan, rebuilt, [layer.facts.name for layer in found])
    plan = dataclasses.replace(plan, first_last=_first_last(rebuilt, used_names, choices))
    if family.has_thresholds:
        family = families.by_name(plan.default.family)
    if choices.alpha_terms:
        shorten_coordinates(rebuilt, multi_bit, choices.alpha_terms)
    return Original(
        checkpoint=checkpoint,
        state_sha256=digest,
        family=family,
        architecture=Architecture(
            name=type(module).__name__,
            input_shape=input_shape,
            input_shape_from=OPTION,
            first=used_names[0],
            last=used_names[-1],
            build=lambda: copy.deepcopy(rebuilt),
        ),
        plan=plan,
        module=rebuilt,
        multi_bit=multi_bit,
        powers_of_two=_powers_of_two(rebuilt, {*plan.floats, *multi_bit}, choices),
        choices=choices,
        observed=observed,
    )


def _recognised(
    module: nn.Module, choices: Choices
) -> tuple[
    dict[nn.Module, str],
    list[FoundLayer],
    dict[str, Quantization],
    dict[nn.Module, WeightedLayer],
]:
    """Return the weighted layers: names, those with thresholds, our own, and replaced floats."""
    found: list[FoundLayer] = []
    names: dict[nn.Module, str] = {}
    ours: dict[str, Quantization] = {}
    fixed: dict[nn.Module, WeightedLayer] = {}
    for name, layer in weighted_layers(module):
        names[layer] = name
        if isinstance(layer, nn.ConvTranspose2d):
            fixed[layer] = TransposedConv2d.of(layer)
        elif isinstance(layer, ThresholdLayer):
            ours[name] = layer.quantization
        elif (recognised := found_layer(name, layer, choices.family)) is not None:
            found.append(recognised)
        elif (replacement := float_replacement(name, layer)) is not None:
            fixed[layer] = replacement
    return names, found, ours, fixed


def _powers_of_two(
    module: nn.Module, skipped: Collection[str], choices: Choices
) -> Mapping[str, Any]:
    plain = {
        name: layer.weight
        for name, layer in weighted_layers(module)
        if not isinstance(layer, QuantizedLayer) and name not in skipped
    }
    return find_powers_of_two(plain, choices)


def _as_computed(plan: LayerPlan, rebuilt: nn.Module, names: Sequence[str]) -> LayerPlan:
    """Return a plan with what layers turned out to compute."""
    modules = dict(rebuilt.named_modules())
    computed = {
        name: layer.quantization
        for name in names
        if isinstance(layer := modules.get(name), ThresholdLayer)
    }
    layers = {**plan.layers, **computed}
    if layers == plan.layers:
        return plan
    usual = Counter(layers[name] for name, was in plan.layers.items() if was == plan.default)
    ((default, _),) = usual.most_common(1)
    parts = {
        "bits": default.weight_bits,
        "activation_bits": default.activation_bits,
        "method": default.method,
        "activation_method": default.activation_method,
        "activation_sign": default.activation_sign,
    }
    changed: dict[str, Any] = {
        name: Stated(value, NETWORK)
        for name, value in parts.items()
        if value != getattr(plan, name).value or name == "activation_sign"
    }
    return dataclasses.replace(plan, default=default, layers=layers, **changed)


def _first_last(rebuilt: nn.Module, names: Sequence[str], choices: Choices) -> Stated[str]:
    """Return the weights of the first and the last layer, rounding them where the user wants it.

    Raises:
        BitWidthError: The user wants floats of layers that have 8-bit weights.
    """
    ends = {n: layer for n, layer in weighted_layers(rebuilt) if n in (names[0], names[-1])}
    rounded = [name for name, layer in ends.items() if isinstance(layer, (FirstConv2d, LastLinear))]
    if choices.first_last == FLOAT and rounded:
        raise BitWidthError(
            "The network's layer has 8-bit weights.",
            where=rounded[0],
            expected="a first or last layer in float",
            got="--first-last float",
            fix="leave it out",
        )
    if choices.first_last == EIGHT_BIT:
        for name, layer in ends.items():
            if not isinstance(layer, QuantizedLayer):
                rebuilt.set_submodule(name, eight_bit_replacement(name, layer))
        return Stated(EIGHT_BIT, OPTION)
    source = NETWORK if choices.first_last is None else OPTION
    return Stated(EIGHT_BIT if rounded else FLOAT, source)


def _family(
    found: Sequence[FoundLayer],
    ours: Mapping[str, Quantization],
    multi_bit: Mapping[str, MultiBitWeights],
    stated: str | None,
) -> Family:
    """Return the family of a network's layers.

    Raises:
        RecognitionError: They are of more than one, or not of the stated one.
    """
    layer_of = {layer.family.name: layer.facts.name for layer in found if layer.family}
    layer_of |= {own.family: name for name, own in ours.items()}
    if len(layer_of) > 1:
        raise RecognitionError(
            "The network's layers are of more than one family.",
            expected="layers of one training code",
            got=", ".join(f"{layer}: {family}" for family, layer in layer_of.items()),
        )
    unstated: Family = families.MULTI_BIT if multi_bit else families.FULL_PRECISION
    unstated = families.USUAL if found else unstated
    family = families.by_name(*layer_of) if layer_of else unstated
    if stated not in (None, family.name):
        raise RecognitionError(
            "The network's layers are of another family.",
            expected=family.name,
            got=f"--family {stated}",
            fix="leave out --family",
        )
    return family


def _rebuilt(module: nn.Module, used: Mapping[nn.Module, WeightedLayer | None]) -> nn.Module:
    """Return a copy of the network with our layers in it, on the CPU, in evaluation mode.

    Layers that the forward pass does not use, such as auxiliary heads of training, are left out.
    """
    # What is in the memo is not copied, but put where the original was, however often it is used.
    memo: dict[int, Any] = {id(layer): made for layer, made in used.items() if made is not None}
    memo |= {id(layer): nn.Identity() for _, layer in weighted_layers(module) if layer not in used}
    try:
        rebuilt = copy.deepcopy(module, memo)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            "The network cannot be copied.",
            where=type(module).__name__,
            expected="a module that copy.deepcopy can copy",
            got=str(error).splitlines()[0],
        ) from error
    drop_hooks(rebuilt)
    return rebuilt.cpu().eval().requires_grad_(requires_grad=False)
