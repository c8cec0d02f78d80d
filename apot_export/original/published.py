"""Rebuild networks of the published architectures from their checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from apot_export.errors import RecognitionError
from apot_export.original import architectures, families
from apot_export.original.checkpoint import Checkpoint, load_checkpoint, require_finite
from apot_export.original.choices import Choices
from apot_export.original.families import Family
from apot_export.original.layer_facts import LayerFacts
from apot_export.original.multi_bit import (
    multi_bit_layers,
    require_bases_of,
    shorten_coordinates,
)
from apot_export.original.naming import bits_from_name, method_from_name
from apot_export.original.original import Original
from apot_export.original.quantization import EIGHT_BIT, STATISTICS, Stated
from apot_export.original.resolving import resolve
from apot_export.original.witness import Weights, weigh


def load_original(path: Path, choices: Choices) -> Original:
    """Load a checkpoint and rebuild its network.

    Raises:
        CheckpointError: The file cannot be loaded safely or is not of a known network.
        BitWidthError: The bit-width is not given, or contradicts the file.
        CodebookError: The level set or grid is none that the family has.
    """
    return rebuild(load_checkpoint(path, choices.weights), choices)


def rebuild(checkpoint: Checkpoint, choices: Choices) -> Original:
    """Rebuild the network of a loaded checkpoint, whose tensors the module shares.

    Raises the errors of `load_original`.
    """
    family = families.recognise(checkpoint.keys, choices.family, bare=checkpoint.bare)
    supported = _supported(checkpoint, choices, family)
    choices = choices if supported is None else supported.completing(choices)
    state = canonical_state(checkpoint, family)
    architecture = architectures.recognise({key: tuple(t.shape) for key, t in state.items()})
    layers = [LayerFacts(name=name) for name in threshold_layers(state)]
    plan = resolve(family, layers, choices, checkpoint.path, architecture=architecture)
    if supported is not None:
        plan = dataclasses.replace(
            plan,
            bits=Stated(plan.bits.value, STATISTICS),
            method=Stated(plan.method.value, STATISTICS),
        )
    require_finite(checkpoint.state)
    ends = {architecture.first, architecture.last} - plan.floats
    eight_bit = ends if plan.first_last.value == EIGHT_BIT else ()
    unused = {f"{name}.{alpha}" for name in plan.floats for alpha in ("weight_alpha", "act_alpha")}
    state = {key: value for key, value in state.items() if key not in unused}
    module = architectures.build(architecture, state, plan.layers, eight_bit, family.name)
    multi_bit = multi_bit_layers(checkpoint, state)
    for name, weights in multi_bit.items():
        require_bases_of(name, weights, state[f"{name}.weight"], checkpoint.path)
    if choices.alpha_terms:
        shorten_coordinates(module, multi_bit, choices.alpha_terms)
    default = plan.default
    completed = plan.choices
    if plan.layers or not family.has_thresholds:  # else the user leaves all layers in float
        completed = dataclasses.replace(
            choices,
            bits=default.weight_bits,
            activation_bits=default.activation_bits,
            method=default.method,
            activation_method=default.activation_method,
            grid=default.grid,
            z=default.z if default.grid == "nonzero" else None,
        )
    return Original(
        checkpoint=checkpoint,
        family=family,
        architecture=architecture,
        plan=plan,
        module=module,
        multi_bit=multi_bit,
        choices=completed,
    )


def _supported(checkpoint: Checkpoint, choices: Choices, family: Family) -> Weights | None:
    """Return the weights that batch-norms decide for where nothing states the bits, else None."""
    path = checkpoint.path
    if choices.bits or not family.has_thresholds or bits_from_name(path) is not None:
        return None
    method = family.methods[0]
    trial = dataclasses.replace(
        choices, bits=family.bit_widths(method)[0], method=method, grid=None, z=None, layer_bits=()
    )
    original = rebuild(checkpoint, trial)
    found = weigh(original.module, original.architecture.input_shape, family)
    named = method_from_name(path)
    stated = choices.method or (named.value if named else None)
    if found.best is None or not found.decisive or stated not in (None, found.best.method):
        return None
    return found.best


def threshold_layers(state: dict[str, torch.Tensor]) -> list[str]:
    """Return the names of the layers that have a clipping threshold, in file order."""
    suffixes = (".weight_alpha", ".act_alpha")
    return list(dict.fromkeys(key.rpartition(".")[0] for key in state if key.endswith(suffixes)))


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
