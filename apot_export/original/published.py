"""Rebuild networks of the published architectures from their checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from apot_export.errors import BitWidthError, RecognitionError, WeightError
from apot_export.original import architectures, families
from apot_export.original.architectures import Architecture
from apot_export.original.checkpoint import Checkpoint, load_checkpoint, require_finite
from apot_export.original.choices import Choices
from apot_export.original.families import Family
from apot_export.original.loading import require_unmasked, some_keys
from apot_export.original.multi_bit import multi_bit_layers, shorten_coordinates
from apot_export.original.naming import bits_from_name, method_from_name
from apot_export.original.original import LayerPlan, Original
from apot_export.original.powers_of_two import find_powers_of_two
from apot_export.original.quantization import (
    ASSUMPTION,
    CHECKPOINT,
    EIGHT_BIT,
    FLOAT,
    FULL_PRECISION_BITS,
    OPTION,
    STATISTICS,
    WEIGHTS,
    Stated,
)
from apot_export.original.resolving import resolve
from apot_export.original.statements import LayerFacts
from apot_export.original.witness import weigh


def load_original(
    path: Path, choices: Choices, input_shape: tuple[int, int, int] | None = None
) -> Original:
    """Load a checkpoint and rebuild its network.

    Args:
        path: The checkpoint.
        choices: How it was trained, as far as its name does not tell.
        input_shape: One image, (channels, height, width); None for that of the architecture.

    Raises:
        CheckpointError: The file cannot be loaded safely or is not of a known network.
        BitWidthError: The bit-width is not given, or contradicts the file.
        CodebookError: The level set or grid is none that the family has.
    """
    loaded = load_checkpoint(path, choices.weights)
    with spelled_as_in(loaded):
        require_unmasked(loaded.state)
        return rebuild(loaded, choices, input_shape)


@contextmanager
def spelled_as_in(checkpoint: Checkpoint | None) -> Iterator[None]:
    """Let errors name thresholds as the keys of the checkpoint do, if there is one."""
    own, theirs = ".weight_alpha", ".weight_quant.wgt_alpha"
    try:
        yield
    except (RecognitionError, WeightError) as error:
        if checkpoint is not None:
            error.where = error.where or str(checkpoint.path)
            if any(key.endswith(theirs) for key in checkpoint.keys):
                for part in ("where", "expected", "got"):
                    text = getattr(error, part)
                    setattr(error, part, text and text.replace(own, theirs))
        raise


def rebuild(
    checkpoint: Checkpoint, choices: Choices, input_shape: tuple[int, int, int] | None = None
) -> Original:
    """Rebuild the network of a loaded checkpoint, whose tensors the module shares.

    Raises the errors of `load_original`.
    """
    named = bits_from_name(checkpoint.path) if checkpoint.bare and not choices.bits else None
    family = families.recognise(
        checkpoint.keys,
        choices.family,
        bare=checkpoint.bare,
        bits=named.value if named else choices.bits,
        method=choices.method,
    )
    given, (choices, source) = choices, _completed(checkpoint, choices, family)
    state = canonical_state(checkpoint, family)
    architecture = architectures.recognise(
        {key: tuple(tensor.shape) for key, tensor in state.items()}, input_shape
    )
    if family is families.FULL_PRECISION:
        _require_no_bits(checkpoint, choices, architecture, state)
    layers = [LayerFacts(name=name) for name in threshold_layers(state)]
    plan = resolve(family, layers, choices, checkpoint.path, architecture=architecture)
    found: dict[str, Any] = {
        part: Stated(getattr(plan, part).value, source)
        for part in ("bits", "activation_bits", "method")
        if getattr(choices, part) != getattr(given, part)
    }
    plan = dataclasses.replace(plan, **found)
    require_finite(checkpoint.state)
    powers_of_two = find_powers_of_two(_plain_weights(state, plan), choices)
    assumed = family is families.FULL_PRECISION and plan.first_last.source == ASSUMPTION
    if powers_of_two and assumed:
        # No layer of the training codes that round these layers has such weights.
        plan = dataclasses.replace(plan, first_last=Stated(FLOAT, WEIGHTS))
    ends = {architecture.first, architecture.last} - plan.floats
    eight_bit = ends if plan.first_last.value == EIGHT_BIT else ()
    unused = {f"{name}.{alpha}" for name in plan.floats for alpha in ("weight_alpha", "act_alpha")}
    state = {key: value for key, value in state.items() if key not in unused}
    module = architectures.build(architecture, state, plan.layers, eight_bit, family.name)
    multi_bit = multi_bit_layers(checkpoint, state)
    if choices.alpha_terms:
        shorten_coordinates(module, multi_bit, choices.alpha_terms)
    return Original(
        checkpoint=checkpoint,
        family=family,
        architecture=architecture,
        plan=plan,
        module=module,
        multi_bit=multi_bit,
        powers_of_two={
            name: weights
            for name, weights in powers_of_two.items()
            if name not in multi_bit and name not in eight_bit
        },
        choices=_rebuilding(plan, choices, family),
    )


def _rebuilding(plan: LayerPlan, choices: Choices, family: Family) -> Choices:
    """Return choices that rebuild the network whatever the names of file and folder."""
    if family.has_thresholds and not plan.layers:  # the user leaves all layers in float
        return plan.choices
    default = plan.default
    return dataclasses.replace(
        choices,
        bits=default.weight_bits,
        activation_bits=default.activation_bits,
        method=default.method,
        activation_method=default.activation_method,
        grid=default.grid,
        z=default.z if default.grid == "nonzero" else None,
    )


def _completed(checkpoint: Checkpoint, choices: Choices, family: Family) -> tuple[Choices, str]:
    """Return choices with the bits that neither they nor names state, and what states them.

    These are the options that the file records, else the weights that batch-norms decide for.

    Raises:
        BitWidthError: A name and the options in the file state different bits.
    """
    path, recorded = checkpoint.path, checkpoint.recorded_bits
    if choices.bits or not family.has_thresholds:
        return choices, OPTION
    named = bits_from_name(path)
    if named is not None:
        if recorded.get("bits", named.value) != named.value:
            raise BitWidthError(
                "The options in the checkpoint state other bits than its name.",
                where=str(path),
                expected=f"{named.value} bits from the {named.source}",
                got=f"{recorded['bits']} bits",
                fix="say the bit-width that the network was trained with: --bits N",
            )
        return choices, OPTION
    if "bits" in recorded:
        return dataclasses.replace(choices, **dict[str, Any](recorded)), CHECKPOINT
    method = family.methods[0]
    trial = dataclasses.replace(
        choices, bits=family.bit_widths(method)[0], method=method, grid=None, z=None, layer_bits=()
    )
    original = rebuild(checkpoint, trial)
    found = weigh(original.module, original.architecture.input_shape, family)
    level_set = method_from_name(path)
    stated = choices.method or (level_set.value if level_set else None)
    if found.best is None or not found.decisive or stated not in (None, found.best.method):
        return choices, OPTION
    return found.best.completing(choices), STATISTICS


def _require_no_bits(
    checkpoint: Checkpoint,
    choices: Choices,
    architecture: Architecture,
    state: dict[str, torch.Tensor],
) -> None:
    """Raise `BitWidthError` where bits are stated of a network that has no thresholds."""
    stated = Stated(choices.bits, OPTION) if choices.bits else bits_from_name(checkpoint.path)
    if stated is None or stated.value == FULL_PRECISION_BITS:
        return
    with torch.device("meta"):
        known = architecture.build().state_dict()
    unknown = [key for key in state if key not in known]
    source = "--bits" if stated.source == OPTION else f"the {stated.source}"
    raise BitWidthError(
        f"{source[0].upper()}{source[1:]} says {stated.value} bits, but the checkpoint has no "
        "clipping thresholds, which quantized layers have.",
        where=str(checkpoint.path),
        expected="keys such as conv1.weight_quant.wgt_alpha or conv1.weight_alpha",
        got=f"{stated.value} bits from {source}; "
        + some_keys(unknown, f"unknown to {architecture.name}"),
        fix="name the constructor of their network: --model PACKAGE.MODULE:FACTORY"
        if unknown
        else "convert it as the float network that it is: --bits 32",
    )


def threshold_layers(state: dict[str, torch.Tensor]) -> list[str]:
    """Return the names of the layers that have a clipping threshold, in file order."""
    suffixes = (".weight_alpha", ".act_alpha")
    return list(dict.fromkeys(key.rpartition(".")[0] for key in state if key.endswith(suffixes)))


def _plain_weights(state: dict[str, torch.Tensor], plan: LayerPlan) -> dict[str, torch.Tensor]:
    """Return the weights of convolutions and linear layers that no plan quantizes, by layer."""
    weights = {
        key.removesuffix(".weight"): tensor
        for key, tensor in state.items()
        if key.endswith(".weight") and tensor.dim() > 1
    }
    skipped = plan.floats.union(plan.layers)
    return {name: tensor for name, tensor in weights.items() if name not in skipped}


def canonical_state(checkpoint: Checkpoint, family: Family) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors under the names that `quantized_layers` uses.

    Raises:
        RecognitionError: Two tensors claim one name.
    """
    origins: dict[str, str] = {}
    for key in checkpoint.state:
        name = family.canonical_key(key)
        if name is None:
            continue
        first = origins.setdefault(name, key)
        if first != key:
            raise RecognitionError(
                "Two tensors of the checkpoint mean the same threshold.", where=f"{first}, {key}"
            )
    return {name: checkpoint.state[key] for name, key in origins.items()}
