"""Find for each layer and quantizer of a network what computes the same.

Tried are quantizations, and for each what the layer's numbers may be to it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from apot_export.errors import BitWidthError, RecognitionError
from apot_export.original import families
from apot_export.original.choices import Choices
from apot_export.original.custom._agreement import Call, Run, chosen, probes
from apot_export.original.custom._layers import (
    FoundLayer,
    WeightedLayer,
    require_one_threshold,
    threshold_replacement,
)
from apot_export.original.custom._quantizers import as_layer, shown
from apot_export.original.families import Family
from apot_export.original.level_sets import activation_level_set, weight_level_set
from apot_export.original.naming import bits_from_name
from apot_export.original.original import LayerPlan
from apot_export.original.quantization import (
    FULL_PRECISION_BITS,
    SIGNED,
    TERNARY_BITS,
    UNSIGNED,
    Quantization,
)
from apot_export.original.statements import layer_exceptions

ANY_BITS = (2, 3, 4, 5, 6, 7, 8)
"""Bit-widths that are tried where nothing states one: the fewest that compute the same."""
_UNIFORM = "uniform"


@dataclass(frozen=True, kw_only=True)
class Form:
    """A quantization with the names of a layer's numbers that are its thresholds."""

    quantization: Quantization
    weights: str
    activations: str | None = None
    """None for float inputs."""
    weights_are_steps: bool = False
    """Whether the threshold is the highest level times the number, which is a step."""
    activations_are_steps: bool = False

    def layer(self, found: FoundLayer) -> WeightedLayer:
        """Return our layer for a user's that has numbers of these names."""
        quantization = self.quantization
        weight_alpha, act_alpha = found.weights[self.weights], None
        if self.weights_are_steps:
            weight_alpha = weight_alpha * (2 ** (quantization.weight_bits - 1) - 1)
        if self.activations is not None:
            act_alpha = found.activations[self.activations]
            if self.activations_are_steps:
                bits = quantization.activation_bits - quantization.signed_activations
                act_alpha = act_alpha * (2**bits - 1)
        return threshold_replacement(found.layer, quantization, weight_alpha, act_alpha)


@dataclass(kw_only=True)
class Hypotheses:
    """Yields what layers of a network may be, what others of it are before what is rare."""

    family: Family
    """Of layers whose thresholds' names tell none."""
    choices: Choices
    confirmed: list[Form] = field(default_factory=list)
    """What layers so far turned out to compute."""

    @property
    def uniform(self) -> Quantization:
        """What most codes do, for modules of which nothing is stated."""
        return Quantization(
            family=self.family.name,
            weight_bits=ANY_BITS[0],
            activation_bits=ANY_BITS[0],
            method=_UNIFORM,
            activation_method=self.choices.activation_method or "",
            activation_sign=self.choices.activation_sign or "",
            legacy_divisor=self.choices.legacy_divisor,
        )

    def forms(self, found: FoundLayer, usual: Quantization) -> Iterator[Form]:
        """Yield what a layer may compute, each form once, the most usual first.

        Args:
            found: The layer.
            usual: What is stated about it, completed by what most codes do.
        """
        tried: set[Form] = set()
        names = list(_names(found))
        known = (form for form in self.confirmed if (form.weights, form.activations) in names)
        for form in itertools.chain(self._usual(names, usual), known, self._others(found, usual)):
            if form not in tried and _exists(form.quantization):
                tried.add(form)
                yield form

    def _usual(self, names: list[tuple[str, str | None]], usual: Quantization) -> Iterator[Form]:
        weights, activations = names[0]
        for quantization in self._with_signs(usual if activations else _of_floats(usual)):
            yield Form(quantization=quantization, weights=weights, activations=activations)

    def _with_signs(self, quantization: Quantization) -> Iterator[Quantization]:
        """Yield a quantization, then those that differ in the sign of its activations."""
        yield quantization
        stated = self.choices.activation_sign is not None or quantization.legacy_divisor
        if (
            stated
            or quantization.activation_method != _UNIFORM
            or not quantization.quantizes_inputs
        ):
            return
        rule = families.by_name(quantization.family).activation_rule(quantization)
        for sign in (SIGNED, UNSIGNED)[: 1 + rule.passes_negative_inputs]:
            yield dataclasses.replace(quantization, activation_sign=sign)

    def _others(self, found: FoundLayer, usual: Quantization) -> Iterator[Form]:
        alone = found.quantizes_inputs_alone
        own_bits = usual.activation_bits if alone else usual.weight_bits
        widths = (own_bits, *(found.other_bits if self.choices.bits is None else ()))
        for bits, (weights, activations), are_steps in itertools.product(
            widths, _names(found), (False, True)
        ):
            for quantization in self._of_weights(found, usual, bits):
                has_steps = quantization.method == _UNIFORM and not alone
                has_steps &= not families.by_name(quantization.family).counts_steps
                if are_steps and not has_steps:
                    continue
                of_inputs = self._of_inputs(quantization, usual, bits)
                complete = of_inputs if activations else [(_of_floats(quantization), False)]
                for both, inputs_are_steps in complete:
                    yield Form(
                        quantization=both,
                        weights=weights,
                        activations=activations,
                        weights_are_steps=are_steps,
                        activations_are_steps=inputs_are_steps,
                    )

    def _of_weights(
        self, found: FoundLayer, usual: Quantization, bits: int
    ) -> Iterator[Quantization]:
        """Yield quantizations of weights; activations are the usual ones."""
        own = found.family or self.family
        others = [one for one in families.FAMILIES if one.has_thresholds and one != own]
        if self.choices.family:
            others = []
        for family in (own, *others):
            if found.quantizes_inputs_alone:
                if _UNIFORM in family.methods:
                    yield dataclasses.replace(usual, family=family.name, activation_bits=bits)
                continue
            methods = [self.choices.method] if self.choices.method else family.methods
            normalised = [True, False] if self.choices.normalize_weights else [False]
            if family.counts_steps:
                normalised = [False]
            grids = [("zero", usual.z)]
            if family.has_grids(bits) and not self.choices.grid:
                grids += [("nonzero", z) for z in family.exponents]
            for method, normalizes, (grid, z) in itertools.product(methods, normalised, grids):
                yield dataclasses.replace(
                    usual,
                    family=family.name,
                    weight_bits=bits,
                    method=method,
                    normalize_weights=normalizes,
                    grid=grid if not self.choices.grid else usual.grid,
                    z=z,
                )

    def _of_inputs(
        self, weights: Quantization, usual: Quantization, bits: int
    ) -> Iterator[tuple[Quantization, bool]]:
        """Yield quantizations with those of inputs, and whether thresholds are steps."""
        stated = self.choices.activation_method
        same = usual.activation_bits == usual.weight_bits
        own_bits = bits if same else weights.activation_bits
        for method, legacy in itertools.product(
            [stated] if stated else families.by_name(weights.family).activation_methods,
            (False, True),
        ):
            if (legacy or usual.activation_sign == SIGNED) and method != _UNIFORM:
                continue
            quantization = dataclasses.replace(
                weights,
                activation_bits=own_bits,
                activation_method=method,
                legacy_divisor=legacy or usual.legacy_divisor,
            )
            for signed in self._with_signs(quantization):
                yield signed, False
                if method == _UNIFORM and not signed.legacy_divisor:
                    yield signed, True


def _names(found: FoundLayer) -> Iterator[tuple[str, str | None]]:
    """Yield names of a layer's numbers that may be the thresholds of weights and of inputs."""
    pairs = itertools.product(found.weights, found.activations)
    yield from (pair for pair in pairs if pair[0] != pair[1])
    if found.family is None or not found.activations:
        yield from ((name, None) for name in found.weights)


def _of_floats(quantization: Quantization) -> Quantization:
    return dataclasses.replace(
        quantization,
        activation_bits=FULL_PRECISION_BITS,
        activation_method=quantization.method,
        activation_sign="",
        legacy_divisor=False,
    )


def _exists(quantization: Quantization) -> bool:
    """Tell whether there is such a level set, and the family's code has it."""
    if not families.by_name(quantization.family).offers(quantization):
        return False
    with suppress(BitWidthError):
        weight_level_set(quantization)
        if quantization.quantizes_inputs:
            activation_level_set(quantization)
        return True
    return False


# --- layers and modules ---------------------------------------------------------------------------


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
