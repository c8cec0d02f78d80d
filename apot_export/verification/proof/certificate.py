"""The weight certificate: every weight of both artifacts against the original's, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from apot_export.artifacts.onnx_model import codebook_attributes
from apot_export.network import CodedLayer, CodedNetwork, Layer, PlaneLayer, QuantizeActivation
from apot_export.network.planes import ungrouped
from apot_export.original.quantized_layers import QuantConv2d, QuantizedLayer
from apot_export.verification.report import WeightCertificate

_SHOWN = 5
_VALUE_ROUNDINGS = 4 * 2.0**-24
"""How far a value, rounded three times by the original, may be from level times step."""


def original_weights(module: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return the weights that each convolution and linear layer of the original computes with."""
    found: dict[str, NDArray[np.float32]] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, QuantizedLayer):
            found[name] = layer.quantized_weight().detach().cpu().numpy()
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            found[name] = layer.weight.detach().cpu().numpy()
    return found


def certify_weights(
    module: nn.Module,
    packed: CodedNetwork,
    model_weights: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, Mapping[str, Any]],
) -> WeightCertificate:
    """Compare every weight.

    Args:
        module: The original.
        packed: The network of the packed file.
        model_weights: What the ONNX model decodes by layer: integer levels, or float weights.
        attributes: What the ONNX model's nodes say of themselves, by value.
    """
    expected = original_weights(module)
    offenders: list[str] = []
    exact = 0
    for name, weights in expected.items():
        finding = _compare_layer(name, weights, module.get_submodule(name), packed, model_weights)
        if finding is None:
            wrong = next(wrong_attributes(packed, name, attributes), None)
            finding = None if wrong is None else f"{name}: {wrong.says}"
        if finding is None:
            exact += 1
        else:
            offenders.append(finding)
    extra = [name for name in packed.layers if name not in expected]
    offenders += [f"{name}: not a layer of the original" for name in extra]
    return WeightCertificate(
        layers=len(expected),
        exact=exact,
        weights=sum(weights.size for weights in expected.values()),
        offenders=tuple(offenders[:_SHOWN]),
    )


def _compare_layer(
    name: str,
    expected: NDArray[np.float32],
    module: nn.Module,
    packed: CodedNetwork,
    model_weights: Mapping[str, NDArray[Any]],
) -> str | None:
    layer = packed.layers.get(name)
    if layer is None or name not in model_weights:
        return f"{name}: missing from the export"
    decoded = layer.weights()
    if decoded.shape != expected.shape or model_weights[name].shape != expected.shape:
        return f"{name}: shape {decoded.shape} instead of {expected.shape}"
    if isinstance(layer, PlaneLayer):
        return _compare_planes(layer, decoded, expected, model_weights[name])
    differs = decoded.view(np.uint32) != expected.view(np.uint32)
    if differs.any():
        return f"{name}: {_first(differs, decoded, expected)} in the packed file"
    levels = layer.levels() if isinstance(layer, CodedLayer) else expected
    differs = np.asarray(model_weights[name] != levels)
    if differs.any():
        return f"{name}: {_first(differs, model_weights[name], levels)} in the ONNX model"
    return _compare_constants(layer, module)


def _compare_planes(
    layer: PlaneLayer,
    decoded: NDArray[np.float32],
    expected: NDArray[np.float32],
    in_model: NDArray[Any],
) -> str | None:
    """Compare sums of scaled sign vectors, whose last bits depend on the order of addition."""
    allowed = plane_rounding(layer)
    for side, weights in (("packed file", decoded), ("ONNX model", in_model)):
        differs = ~(np.abs(weights.astype(np.float64) - expected) <= allowed)
        if differs.any():
            return f"{layer.name}: {_first(differs, weights, expected)} in the {side}"
    return None


def plane_rounding(layer: PlaneLayer) -> NDArray[np.float64]:
    """Return how far two sums of the same scaled sign vectors may be apart, in weight shape.

    Each side adds the same float32 products, so they differ by at most one unit roundoff of the sum
    of magnitudes per addition.
    """
    planes = layer.planes
    scaled = np.abs(np.append(planes.coordinates, np.float32(0)).astype(np.float64))
    magnitudes = scaled[planes.slots].sum(axis=1)
    groups = np.repeat((planes.counts * magnitudes)[:, None], planes.group_size, axis=1)
    return ungrouped(groups, planes.shape, position_major=planes.position_major) * 2.0**-23


def step_error(layer: CodedLayer) -> float | None:
    """Return the step that a layer's values are multiples of, where it is not what it says."""
    levels = layer.codebook.levels
    if np.allclose(levels * layer.step, layer.values, rtol=_VALUE_ROUNDINGS, atol=0):
        return None
    largest = int(np.argmax(levels))
    return float(layer.values[largest]) / int(levels[largest])


@dataclass(frozen=True)
class WrongAttribute:
    """An attribute of the ONNX model that says something else than the packed file."""

    says: str
    expected: float | None
    """None where it is no number."""
    got: float | None


def wrong_attributes(
    packed: CodedNetwork, name: str, attributes: Mapping[str, Mapping[str, Any]]
) -> Iterator[WrongAttribute]:
    """Yield what the ONNX model's nodes say of a layer's codes and does not hold.

    Args:
        packed: The network of the packed file, whose layer is that of the original.
        name: The layer.
        attributes: What nodes of the model say, by value.
    """
    layer = packed.layers[name]
    if not isinstance(layer, CodedLayer):
        return
    said = {
        f"{name}.levels_of_weights": {
            **codebook_attributes(layer.codebook),
            "signed": int(layer.codebook.signed),
        }
    }
    if layer.activation is not None:
        quantizer = {
            **codebook_attributes(layer.activation.codebook),
            "alpha": float(layer.activation.alpha),
        }
        said |= {
            node.name: quantizer
            for node in packed.nodes
            if isinstance(node.operation, QuantizeActivation) and node.operation.layer == name
        }
    for value, expected in said.items():
        found = attributes.get(value, {})
        for attribute, right in expected.items():
            got = found.get(attribute)
            if got != right:
                numbers = [
                    float(side) if isinstance(side, (int, float)) else None for side in (right, got)
                ]
                says = f"attribute {attribute} of {value} {got} instead of {right}"
                yield WrongAttribute(f"{says} in the ONNX model", *numbers)


def weight_threshold(module: nn.Module) -> float | None:
    """Return the clipping threshold of a layer's weights; None where it has none."""
    return float(module.weight_alpha) if isinstance(module, QuantConv2d) else None


def _compare_constants(layer: Layer, module: nn.Module) -> str | None:
    """Compare what a layer of the packed file says beside its weights."""
    quantizer = None
    if isinstance(layer, CodedLayer):
        quantizer = layer.activation
        if step_error(layer) is not None:
            return f"{layer.name}: step {layer.step}, which its values are no multiples of"
        if layer.alpha != weight_threshold(module):
            return (
                f"{layer.name}: weight threshold {layer.alpha} instead of "
                f"{weight_threshold(module)}"
            )
    expected = float(module.act_alpha) if isinstance(module, QuantConv2d) else None
    got = None if quantizer is None else float(quantizer.alpha)
    if got != expected:
        return f"{layer.name}: activation threshold {got} instead of {expected}"
    return None


def _first(differs: NDArray[np.bool_], got: NDArray[Any], expected: NDArray[Any]) -> str:
    place = tuple(int(axis[0]) for axis in np.nonzero(differs))
    return (
        f"{int(differs.sum())} of {differs.size} weights differ, "
        f"first at {list(place)}: {got[place]:.9g} instead of {expected[place]:.9g}"
    )
