"""Compare each layer of a custom network with its replacement, on the same inputs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from apot_export.errors import ApotExportError, ModelError, RecognitionError
from apot_export.network.bounds import UNIT_ROUNDOFF, sum_roundings
from apot_export.original.custom._factory import ImageShape
from apot_export.original.custom._layers import WeightedLayer, weighted_layers
from apot_export.original.custom._wrappers import hooks_of
from apot_export.original.observed import Observed, tensors_of
from apot_export.original.quantized_layers import QuantConv2d, QuantizedLayer
from apot_export.original.tracing import eagerly

_SEED = 20190928
_IMAGES = 2
_LARGE_IMAGE = 1 << 15
"""Pixels from which on one image shows enough of every layer."""
_NUDGE = 2.0**-18
"""Relative change of thresholds whose effect on levels counts as float noise."""
_EIGHT_BIT_STEPS = 127
_ROUNDINGS = 16


def require_agreement(
    module: nn.Module,
    candidates: Mapping[nn.Module, Sequence[WeightedLayer]],
    input_shape: ImageShape,
) -> tuple[dict[nn.Module, WeightedLayer | None], Observed]:
    """Run a network on random images and compare each layer with what may replace it.

    Args:
        module: The user's network.
        candidates: Our own layers, by the user's; the most usual first.
        input_shape: One image.

    Returns:
        The layers that the forward pass uses, each with the first candidate that computes the same;
        None where the layer can stay. And what the network computed.

    Raises:
        ModelError: The network does not run.
        RecognitionError: A layer differs from its replacement.
    """
    names: dict[nn.Module, str] = {layer: name for name, layer in weighted_layers(module)}
    agreeing: dict[nn.Module, list[WeightedLayer]] = {}
    findings: list[RecognitionError] = []
    calls: dict[str, list[tuple[Any, Any]]] = {}

    def compare(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        arrays = [tensor.cpu().numpy().copy() for tensor in tensors_of((*inputs[:1], output))]
        calls.setdefault(names[layer], []).append((arrays[0], arrays[-1]))
        left = agreeing.get(layer, candidates.get(layer, ()))
        found = [_difference(names[layer], layer, one, inputs, output) for one in left]
        agreeing[layer] = [one for one, wrong in zip(left, found, strict=True) if wrong is None]
        if left and not agreeing[layer]:
            _, closest = min((one for one in found if one is not None), key=itemgetter(0))
            findings.append(closest)

    # Before hooks of the user's, so that what those do to an output is seen behind it.
    handles = [layer.register_forward_hook(compare, prepend=True) for layer in names]
    images = _images(module, input_shape)
    try:
        with torch.no_grad(), _evaluating(module), eagerly():
            results = _run(module, images)
    finally:
        for handle in handles:
            handle.remove()
    if findings:
        raise findings[0]
    if not agreeing:
        raise ModelError(
            "The network uses none of its layers.",
            where=type(module).__name__,
            expected="a forward pass through convolutions or linear layers",
        )
    observed = Observed(
        images=images.cpu().numpy(),
        calls=calls,
        results=[tensor.cpu().numpy() for tensor in tensors_of(results)],
        hooks=tuple(hooks_of(module)),
    )
    return {layer: next(iter(left), None) for layer, left in agreeing.items()}, observed


def _images(module: nn.Module, input_shape: ImageShape) -> torch.Tensor:
    first = next(module.parameters(), torch.zeros(()))
    generator = torch.Generator().manual_seed(_SEED)
    count = _IMAGES if math.prod(input_shape[1:]) < _LARGE_IMAGE else 1
    return torch.randn((count, *input_shape), generator=generator).to(first.device)


def _run(module: nn.Module, images: torch.Tensor) -> Any:
    try:
        return module(images.clone())
    except ApotExportError:
        raise
    except Exception as error:
        raise ModelError(
            "The network does not run on an image of this shape.",
            where=type(module).__name__,
            expected=f"an image {list(images.shape[1:])} as its only input",
            got=f"{type(error).__name__}: {error}".splitlines()[0],
            fix="say the shape that it was trained with: --input-shape C,H,W",
        ) from error


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _difference(
    name: str, layer: nn.Module, replacement: WeightedLayer, inputs: tuple[Any, ...], output: Any
) -> tuple[float, RecognitionError] | None:
    """Return how far a replacement's outputs are away, and what to say; None where it agrees."""
    if len(inputs) != 1 or not all(isinstance(v, torch.Tensor) for v in (*inputs, output)):
        got = ", ".join(type(value).__name__ for value in inputs) or "keywords alone"
        says = "A layer is not called with one tensor."
        return math.inf, RecognitionError(says, where=name, got=got)
    image = inputs[0].cpu()
    values, weights = _operands(replacement, image)
    expected = _products(replacement, values, weights, replacement.bias)
    got = output.cpu()
    distance = torch.tensor(math.inf)
    if got.shape == expected.shape:
        distance = (got - expected).abs()
        # Float noise is worked out as far as it is needed: it takes longer than the layer.
        if not distance.any():
            return None
        noise = _roundings(replacement, values, weights)
        if bool((distance <= noise).all()):
            return None
        if bool((distance <= noise + _moved(replacement, image, values, weights)).all()):
            return None
    formula = "8-bit weights: round(w / max(w) * 127)"
    if isinstance(replacement, QuantConv2d):
        said = replacement.quantization
        formula = (
            f"family {said.family}: {said.weight_bits}-bit weights and {said.activation_bits}-bit "
            f"activations, level sets {said.method} and "
            f"{said.activation_sign} {said.activation_method}".replace("  ", " ")
        )
    elif not isinstance(replacement, QuantizedLayer):
        formula = "a plain layer, for its bit-width is 32"
    return float(distance.max()), RecognitionError(
        "A layer of the network computes something else than its family's formula.",
        where=f"{name} ({type(layer).__name__})",
        expected=formula,
        got=f"outputs that differ by up to {float(distance.max()):.3g}, far beyond float rounding",
        fix="say how it was trained (--bits, --method, --activation-method, --activation-sign, "
        "--grid, --legacy-divisor, --no-weight-normalization); other formulas cannot be converted",
    )


# --- float noise ----------------------------------------------------------------------------------


def _operands(layer: WeightedLayer, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the input and the weights that a layer multiplies."""
    values = layer.quantized_input(image) if isinstance(layer, QuantConv2d) else image
    if isinstance(layer, QuantizedLayer):
        return values, layer.quantized_weight()
    return values, layer.weight


def _roundings(layer: WeightedLayer, values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return how far the roundings of its sums may move a layer's outputs."""
    bias = None if layer.bias is None else layer.bias.abs()
    roundings = (sum_roundings(weights[0].numel()) + _ROUNDINGS) * 2 * UNIT_ROUNDOFF
    return roundings * _products(layer, values.abs(), weights.abs(), bias)


def _moved(
    layer: WeightedLayer, image: torch.Tensor, values: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return how far levels that float noise tips over may move a layer's outputs."""
    moved_values, moved_weights = torch.zeros_like(values), torch.zeros_like(weights)
    if isinstance(layer, QuantConv2d):
        low, high = (_operands(_scaled(layer, 1 + n), image) for n in (-_NUDGE, _NUDGE))
        moved_values, moved_weights = ((b - a).abs() for a, b in zip(low, high, strict=True))
    elif isinstance(layer, QuantizedLayer):
        steps = layer.weight / layer.weight.max() * _EIGHT_BIT_STEPS
        to_decision = (steps - steps.floor() - 0.5).abs()
        moved = to_decision <= _EIGHT_BIT_STEPS * _NUDGE
        moved_weights = moved * (layer.weight.max().abs() / _EIGHT_BIT_STEPS)
    noise = _products(layer, moved_values, weights.abs() + moved_weights)
    return noise + _products(layer, values.abs(), moved_weights)


def _scaled(layer: QuantConv2d, factor: float) -> QuantConv2d:
    scaled = copy.deepcopy(layer)
    scaled.weight_alpha.mul_(factor)
    scaled.act_alpha.mul_(factor)
    return scaled


def _products(
    layer: WeightedLayer,
    values: torch.Tensor,
    weights: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    if isinstance(layer, nn.Linear):
        return functional.linear(values, weights, bias)
    return layer._conv_forward(values, weights, bias)  # noqa: SLF001 - pads as the layer does
