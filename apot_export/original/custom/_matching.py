"""Find for each layer and quantizer of a network what computes the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from torch import nn

from apot_export.errors import RecognitionError
from apot_export.original.applicability import layer_exceptions
from apot_export.original.choices import Choices
from apot_export.original.custom._agreement import Call, Run, chosen, probes
from apot_export.original.custom._hypotheses import ANY_BITS, Form, Hypotheses
from apot_export.original.custom._layers import (
    FoundLayer,
    WeightedLayer,
    require_one_threshold,
    threshold_replacement,
)
from apot_export.original.custom._quantizers import as_layer, shown
from apot_export.original.naming import bits_from_name
from apot_export.original.plan import LayerPlan
from apot_export.original.quantization import TERNARY_BITS, Quantization


def with_bits(
    found: list[FoundLayer], ours: Collection[str], choices: Choices, path: Path | None
) -> list[FoundLayer]:
    """Let layers for which nothing states a bit-width try all of them."""
    if choices.bits is not None or (path is not None and bits_from_name(path) is not None):
        return found
    first, *others = ANY_BITS
    stated = layer_exceptions(choices, [*(layer.facts.name for layer in found), *ours], [])
    return [
        layer
        if layer.facts.bits is not None or layer.facts.name in stated
        else dataclasses.replace(
            layer,
            facts=dataclasses.replace(layer.facts, bits=first),
            other_bits=tuple(others),
        )
        for layer in found
    ]


def chosen_layers(
    made: Run,
    names: Mapping[nn.Module, str],
    fixed: Mapping[nn.Module, WeightedLayer],
    found: Sequence[FoundLayer],
    plan: LayerPlan,
    hypotheses: Hypotheses,
) -> dict[nn.Module, WeightedLayer | None]:
    """Return our layer for each that the network uses; None where the user's can stay.

    Raises:
        RecognitionError: A layer computes something else than all that it may.
    """
    used: dict[nn.Module, WeightedLayer | None] = {}
    quantized: dict[nn.Module, FoundLayer] = {one.layer: one for one in found}
    for layer, calls in made.calls.items():
        if (name := names.get(layer)) is None:
            continue
        if (one := quantized.get(layer)) is None:
            replacement = fixed.get(layer)
            used[layer] = replacement and chosen(name, layer, calls, [replacement])
            continue
        if name not in plan.layers:  # which the user leaves in float
            used[layer] = chosen(name, layer, calls, [threshold_replacement(one.layer, None)])
            continue
        both = [*calls, *probes(layer, calls, one.activations.values())]
        used[layer] = _of_form(layer, one, both, plan.layers[name], hypotheses)
    return used


def _of_form(
    layer: nn.Module,
    found: FoundLayer,
    calls: Sequence[Call],
    usual: Quantization,
    hypotheses: Hypotheses,
) -> WeightedLayer:
    """Return our layer of the first form that computes what a user's module does."""
    tried: list[Form] = []

    def candidates() -> Iterator[WeightedLayer]:
        for form in hypotheses.forms(found, usual):
            tried.append(form)
            yield form.layer(found)

    try:
        made = chosen(found.facts.name, layer, calls, candidates())
    except RecognitionError:
        require_one_threshold(found)
        raise
    if tried[-1] not in hypotheses.confirmed:
        hypotheses.confirmed.append(tried[-1])
    return made


def chosen_quantizers(
    made: Run,
    possible: Mapping[nn.Module, FoundLayer],
    default: Quantization,
    hypotheses: Hypotheses,
) -> dict[nn.Module, WeightedLayer]:
    """Return a layer for each module that quantizes activations, the outermost of nested ones.

    Raises:
        RecognitionError: A module quantizes in a way that is not known.
    """
    stubs: dict[nn.Module, WeightedLayer] = {}
    done: set[nn.Module] = set()
    choices = hypotheses.choices
    for module, found in possible.items():
        calls = made.calls.get(module)
        flat = shown(module, calls, found) if calls and module not in done else None
        if flat is None or calls is None:
            continue
        said = choices.activation_bits or choices.bits or found.facts.bits
        first, *others = (said,) if said else ANY_BITS
        usual = dataclasses.replace(
            default if default.quantizes_inputs else hypotheses.uniform,
            weight_bits=TERNARY_BITS,
            method="uniform",
            activation_bits=first,
            normalize_weights=False,
        )
        one = dataclasses.replace(found, other_bits=tuple(others))
        try:
            layer = _of_form(module, one, flat, usual, hypotheses)
        except RecognitionError:
            if any(part in possible for part in module.modules() if part is not module):
                continue  # one of its parts may be the quantizer
            raise
        stubs[module] = as_layer(found.facts.name, layer, calls)
        done.update(module.modules())
    return stubs
