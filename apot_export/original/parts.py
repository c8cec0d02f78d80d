"""The parts of a quantization, each with its value and what states it: for screens and files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from apot_export.original import families
from apot_export.original.original import Original
from apot_export.original.quantization import (
    ASSUMPTION,
    CLIPPED_ABOVE,
    FAMILY,
    FLOAT,
    FULL_PRECISION_BITS,
    NETWORK,
    OPTION,
    UNSIGNED,
    WEIGHTS,
    Quantization,
    Stated,
)


def stated_parts(original: Original) -> list[dict[str, Any]]:
    """Return every part of a network's quantization: "what", "value" and "source".

    The source of what nothing states is "assumption". Of a custom network nothing is assumed: its
    layers were compared with their formulas.
    """
    assumption = ASSUMPTION if original.state_sha256 is None else NETWORK
    return [
        {
            "what": what,
            "value": part.value,
            "source": assumption if part.source == ASSUMPTION else part.source,
        }
        for what, part in _parts(original)
    ]


def _parts(original: Original) -> Iterator[tuple[str, Stated[Any]]]:
    plan, family = original.plan, original.family
    if family.has_sign_vectors:
        yield "weights", Stated("sign vectors", plan.bits.source)
        yield "activations", Stated(FLOAT, FAMILY)
    else:
        if original.quantization.weight_bits != FULL_PRECISION_BITS and plan.layers:
            yield from _of_thresholds(original)
        else:
            yield "weights", Stated(FLOAT, plan.bits.source)
            yield "activations", Stated(FLOAT, plan.bits.source)
        if original.powers_of_two:
            yield "power-of-two layers", Stated(_found(original), WEIGHTS)
        yield "first and last layer", plan.first_last
        if plan.floats:
            names = sorted(plan.floats)
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield "left in float", Stated(names[0] + more, OPTION)
    architecture = original.architecture
    shape = " x ".join(map(str, architecture.input_shape))
    yield "input shape", Stated(shape, architecture.input_shape_from)
    yield "strides", Stated("no dilation", ASSUMPTION)


def _found(original: Original) -> str:
    """Say in how many layers weights are sums of powers of two, and how wide their codes are."""
    layers = sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in original.module.modules())
    bits = sorted({weights.codebook.bits for weights in original.powers_of_two.values()})
    widths = f"{bits[0]} to {bits[-1]}" if len(bits) > 1 else str(bits[0])
    return f"{len(original.powers_of_two)} of {layers}, {widths} bits a weight"


def _of_thresholds(original: Original) -> Iterator[tuple[str, Stated[Any]]]:
    plan, family, default = original.plan, original.family, original.quantization
    yield "weight bits", plan.bits
    if default.quantizes_inputs:
        yield "activation bits", plan.activation_bits
    else:
        yield "activations", Stated(FLOAT, plan.activation_bits.source)
    yield "weight levels", plan.method
    if default.quantizes_inputs:
        yield "activation levels", plan.activation_method
        yield "activation sign", _activation_sign(original)
    if family.has_grids(default.weight_bits):
        yield "grid", plan.grid
        if default.grid == "nonzero":
            source = NETWORK if plan.grid.source == NETWORK else OPTION
            yield "exponent Z", Stated(default.z, source)
    uniform = default.activation_method == "uniform" and not default.signed_activations
    uniform &= default.quantizes_inputs
    if family.had_legacy_divisor and uniform:
        divisor = "2^(bits-1) - 1" if default.legacy_divisor else "2^bits - 1"
        yield "activation divisor", _of_option(divisor, stated=default.legacy_divisor)
    normalised = default.normalize_weights
    value = "yes" if normalised else "no"
    yield "weight normalisation", _of_option(value, stated=not normalised)


def _activation_sign(original: Original) -> Stated[str]:
    """Return the sign of most layers' activations, with those that have another."""
    plan = original.plan

    def says(quantization: Quantization) -> str:
        rule = families.by_name(quantization.family).activation_rule(quantization)
        passes = CLIPPED_ABOVE if rule.passes_negative_inputs else UNSIGNED
        return quantization.activation_sign or passes

    usual = says(plan.default)
    quantized = {name: own for name, own in plan.layers.items() if own.quantizes_inputs}
    others = {name: says(own) for name, own in quantized.items() if says(own) != usual}
    more = f", {len(others)} layers otherwise" if len(others) > 1 else ""
    if len(others) == 1:
        more = "".join(f", {name} {sign}" for name, sign in others.items())
    return Stated(usual + more, plan.activation_sign.source)


def _of_option(value: str, *, stated: bool) -> Stated[str]:
    return Stated(value, OPTION if stated else ASSUMPTION)
