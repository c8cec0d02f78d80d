"""The weight certificate: every weight of both artifacts against the original's, bit for bit.

With the weights come the constants of each layer: thresholds, steps, activation levels, and what
the nodes of the ONNX model state. What is expected is derived from the original and from the
codebooks of the packed file; nothing is shared with the code that wrote the artifacts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from apot_export.network import (
    ActivationQuantizer,
    CodedLayer,
    CodedNetwork,
    Layer,
    PlaneLayer,
    QuantizeActivation,
)
from apot_export.network.bounds import UNIT_ROUNDOFF
from apot_export.network.codebook import Codebook, distinct_levels
from apot_export.network.comparison import Difference, first_place
from apot_export.network.planes import ungrouped
from apot_export.original.quantized_layers import QuantizedLayer, ThresholdLayer
from apot_export.verification.report import WeightCertificate

_SHOWN = 5
_VALUE_ROUNDINGS = 4 * UNIT_ROUNDOFF
"""How far a value, rounded three times by the original, may be from level times step."""
_PACKED, _MODEL = "the packed file", "the ONNX model"


def original_weights(module: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return the weights that each convolution and linear layer of the original computes with."""
    return {
        name: quantized_weights(layer)
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    }


def quantized_weights(layer: nn.Conv2d | nn.Linear | ThresholdLayer) -> NDArray[np.float32]:
    """Return the weights that a layer of the original computes with, float32, weight shape."""
    weight = layer.quantized_weight() if isinstance(layer, QuantizedLayer) else layer.weight
    return np.asarray(weight.detach().cpu().numpy())


def activation_levels(module: ThresholdLayer, quantizer: ActivationQuantizer) -> NDArray[np.int64]:
    """Return the integer levels of a layer's input quantizer, ascending.

    Where training let negative inputs pass, its levels have no end: then they are those down to the
    lowest of the packed file's quantizer, and an input below that is not explained.
    """
    if module.activation_levels is None:
        lowest = module.lowest_level()
        if lowest is None:
            lowest = min(0, int(quantizer.codebook.levels.min()))
        return np.arange(lowest, module.input_denominator() + 1)
    levels = np.unique(module.activation_levels.cpu().numpy()).astype(np.float64)
    return np.rint(levels * module.activation_denominator()).astype(np.int64)


def certify_weights(
    module: nn.Module | None,
    packed: CodedNetwork,
    model_weights: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, Mapping[str, Any]],
    found: list[Difference],
) -> WeightCertificate:
    """Compare every weight, and the constants of every layer.

    Args:
        module: The original; None to compare the ONNX model with the packed file alone.
        packed: The network of the packed file.
        model_weights: What the ONNX model decodes by layer: integer levels, or float weights.
        attributes: What the ONNX model's nodes state, by the value they compute.
        found: Differences are appended to it.
    """
    expected = {name: layer.weights() for name, layer in packed.layers.items()}
    if module is not None:
        expected = original_weights(module)
    offenders: list[Difference] = []
    for name, weights in expected.items():
        layer = packed.layers.get(name)
        differences = [*_compare_weights(name, weights, layer, model_weights.get(name))]
        if module is not None:
            differences += _compare_constants(name, module.get_submodule(name), layer)
        differences += _compare_attributes(name, packed, attributes)
        found += differences
        offenders += differences[:1]
    extra = [
        _weights(name, "not a layer of the original")
        for name in packed.layers
        if name not in expected
    ]
    found += extra
    return WeightCertificate(
        layers=len(expected),
        exact=len(expected) - len(offenders),
        weights=sum(weights.size for weights in expected.values()),
        offenders=tuple(f"{one.layer}: {one.says}" for one in [*offenders, *extra][:_SHOWN]),
    )


# --- weights --------------------------------------------------------------------------------------


def _weights(name: str, says: str, **more: Any) -> Difference:
    return Difference(value=name, layer=name, kind="weights", says=says, **more)


def _compare_weights(
    name: str, expected: NDArray[np.float32], layer: Layer | None, in_model: NDArray[Any] | None
) -> Iterator[Difference]:
    """Yield the first difference of a layer's weights, if there is one."""
    if layer is None or in_model is None:
        yield _weights(name, f"missing from {_PACKED if layer is None else _MODEL}")
        return
    decoded = layer.weights()
    # The model decodes integers, which the packed file's values belong to.
    held_by_packed = layer.levels() if isinstance(layer, CodedLayer) else decoded
    right = held_by_packed if isinstance(layer, CodedLayer) else expected
    allowed = plane_rounding(layer) if isinstance(layer, PlaneLayer) else None
    for artifact, got, original in ((_PACKED, decoded, expected), (_MODEL, in_model, right)):
        if got.shape != original.shape:
            says = f"shape {list(got.shape)} instead of {list(original.shape)} in {artifact}"
            yield _weights(name, says)
            return
        differs = _differing(got, original, allowed)
        if differs.any():
            both = artifact == _PACKED and np.array_equal(held_by_packed, in_model)
            place = first_place(differs)
            yield _weights(
                name,
                f"{int(differs.sum())} of {differs.size} weights differ, first at {list(place)}: "
                f"{got[place]:.9g} instead of {original[place]:.9g} in "
                f"{f'{_PACKED} and {_MODEL}' if both else artifact}",
                place=place,
                original=float(original[place]),
                export=float(got[place]),
            )
            return


def _differing(
    got: NDArray[Any], original: NDArray[Any], allowed: NDArray[np.float64] | None
) -> NDArray[np.bool_]:
    if allowed is not None:
        return np.asarray(~(np.abs(got.astype(np.float64) - original) <= allowed))
    if got.dtype == original.dtype == np.float32:
        # Bit for bit: the sign of a zero counts.
        return np.asarray(got.view(np.uint32) != original.view(np.uint32))
    return np.asarray(got != original)


def plane_rounding(layer: PlaneLayer) -> NDArray[np.float64]:
    """Return how far two sums of the same scaled sign vectors may be apart, in weight shape.

    Each side adds the same float32 products, so they differ by at most one unit roundoff of the sum
    of magnitudes per addition.
    """
    planes = layer.planes
    group_of_basis = np.repeat(np.arange(planes.counts.size), planes.counts)
    magnitudes = np.bincount(group_of_basis, np.abs(planes.coordinates), planes.counts.size)
    groups = np.repeat((planes.counts * magnitudes)[:, None], planes.group_size, axis=1)
    bounds = ungrouped(groups, planes.shape, position_major=planes.position_major)
    return bounds * 2 * UNIT_ROUNDOFF


# --- constants ------------------------------------------------------------------------------------


def _compare_constants(name: str, module: nn.Module, layer: Layer | None) -> Iterator[Difference]:
    """Yield what the packed file states about a layer beside its weights and is not so."""
    if layer is None:
        return
    for what, expected, got in _constants(layer, module):
        if got != expected:
            yield Difference(
                value=name,
                layer=name,
                kind="constants",
                says=f"{what} {got} instead of {expected} in {_PACKED}",
                original=expected,
                export=got,
            )


def _constants(layer: Layer, module: nn.Module) -> Iterator[tuple[str, float | None, float | None]]:
    """Yield constants of a layer: name, the original's number, the packed file's."""
    quantizer = layer.activation if isinstance(layer, CodedLayer) else None
    quantized = module if isinstance(module, ThresholdLayer) else None
    if isinstance(layer, CodedLayer):
        yield "step of the weights", _step_of_values(layer), layer.step
        # Thresholds of channels are part of the weights, which are compared.
        has_one = quantized is not None and quantized.weight_alpha.numel() == 1
        threshold = float(quantized.weight_alpha) if quantized and has_one else None
        yield "weight threshold", threshold, layer.alpha
    quantized = quantized if quantized is not None and quantized.quantizes_input else None
    threshold = None if quantized is None else float(quantized.act_alpha)
    got = None if quantizer is None else float(quantizer.alpha)
    yield "activation threshold", threshold, got
    if quantized is None or quantizer is None:
        return
    step = float(quantized.act_alpha) / quantized.activation_denominator()
    yield "step of the activations", step, quantizer.step
    steps = quantized.input_denominator(), quantizer.input_steps
    yield "number of input steps up to the activation threshold", *steps
    levels = distinct_levels(quantizer.codebook).tolist()
    for pair in zip_longest(activation_levels(quantized, quantizer).tolist(), levels):
        yield "activation level", *pair


def _step_of_values(layer: CodedLayer) -> float:
    """Return the step that a layer's values are multiples of: its own where that is right."""
    levels = layer.codebook.levels
    if np.allclose(levels * layer.step, layer.values, rtol=_VALUE_ROUNDINGS, atol=0):
        return layer.step
    largest = int(np.argmax(levels))
    return float(layer.values[largest]) / int(levels[largest])


# --- what the ONNX model states -------------------------------------------------------------------


def _stated(codebook: Codebook) -> dict[str, Any]:
    """Return the attributes with which a node states a codebook."""
    return {
        "bits": sum(len(table).bit_length() - 1 for table in codebook.tables) + codebook.signed,
        "denominator": codebook.denominator,
        "digit_tables": [addend for table in codebook.tables for addend in table],
        "digit_table_sizes": [len(table) for table in codebook.tables],
    }


def _compare_attributes(
    name: str, packed: CodedNetwork, attributes: Mapping[str, Mapping[str, Any]]
) -> Iterator[Difference]:
    """Yield attributes of the ONNX model's nodes that contradict the packed file's codebooks."""
    layer = packed.layers.get(name)
    if not isinstance(layer, CodedLayer):
        return
    weights = {**_stated(layer.codebook), "signed": int(layer.codebook.signed)}
    expected = {f"{name}.levels_of_weights": weights}
    if layer.activation is not None:
        quantizer = {
            **_stated(layer.activation.codebook),
            "alpha": float(layer.activation.alpha),
        }
        expected |= {
            node.name: quantizer
            for node in packed.nodes
            if isinstance(node.operation, QuantizeActivation) and node.operation.layer == name
        }
    for value, stated in expected.items():
        for attribute, right in stated.items():
            got = attributes.get(value, {}).get(attribute)
            if got != right:
                numbers = [
                    float(side) if isinstance(side, (int, float)) else None for side in (right, got)
                ]
                yield Difference(
                    value=name,
                    layer=name,
                    kind="constants",
                    says=f"attribute {attribute} of {value} {got} instead of {right} in {_MODEL}",
                    original=numbers[0],
                    export=numbers[1],
                    late=True,
                )
