"""Compare each layer of a custom network with its replacement, on the same inputs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import fx, nn

from apot_export.errors import ApotExportError, ModelError, RecognitionError
from apot_export.network.bounds import UNIT_ROUNDOFF, sum_roundings
from apot_export.original._calls import eagerly
from apot_export.original.custom._factory import ImageShape
from apot_export.original.custom._layers import WeightedLayer
from apot_export.original.custom._state import require_same_state, state_of
from apot_export.original.custom._wrappers import hooks_of
from apot_export.original.original import Observed
from apot_export.original.primitives import tensors_of
from apot_export.original.quantized_layers import QuantizedLayer, ThresholdLayer, products

_SEED = 20190928
_IMAGES = 2
_LARGE_IMAGE = 1 << 15
"""Pixels from which on one image shows enough of every layer."""
_NUDGE = 2.0**-18
"""Relative change of thresholds whose effect on levels counts as float noise."""
_NEAR, _TINY = 0.3, 1e-30
"""Root of the mean square of differences, of that of the numbers, that noise stays far below."""
_REACHES = (1.5, 300.0)
"""Largest probes in units of a threshold, and of a step of 8 bits."""
_PROBED = 16
"""Height and width of probes of convolutions whose windows are no larger."""
_EIGHT_BIT_STEPS = 127
_ROUNDINGS = 16

Call = tuple[tuple[Any, ...], Any]
"""Inputs and output of a layer, on the CPU."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a network and its layers computed on random images."""

    calls: Mapping[nn.Module, Sequence[Call]]
    """Of the layers that the forward pass uses, in the order of their first calls."""
    observed: Observed


def run(module: nn.Module, names: Mapping[nn.Module, str], input_shape: ImageShape) -> Run:
    """Run a network on random images.

    Args:
        module: The user's network.
        names: Of the layers to watch.
        input_shape: One image.

    Raises:
        ModelError: The network does not run, or uses none of the layers.
    """
    calls: dict[nn.Module, list[Call]] = {}
    arrays: dict[str, list[tuple[Any, Any]]] = {}

    def watch(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        kept = fx.node.map_aggregate((inputs, output), _copied)
        calls.setdefault(layer, []).append(kept)
        tensors = [tensor.numpy() for tensor in tensors_of((*kept[0][:1], kept[1]))]
        arrays.setdefault(names[layer], []).append((tensors[0], tensors[-1]))

    # Before hooks of the user's, so that what those do to an output is seen behind it.
    handles = [layer.register_forward_hook(watch, prepend=True) for layer in names]
    images = _images(module, input_shape)
    try:
        with torch.no_grad(), _evaluating(module), eagerly():
            before = state_of(module)
            results = tensors_of(_run(module, images))
            for handle in handles:
                handle.remove()
            require_same_state(
                module, before, results, lambda factor: tensors_of(_run(module, images * factor))
            )
    finally:
        for handle in handles:
            handle.remove()
    if not calls:
        raise ModelError(
            "The network uses none of its layers.",
            where=type(module).__name__,
            expected="a forward pass through convolutions or linear layers",
        )
    observed = Observed(
        images=images.cpu().numpy(),
        calls=arrays,
        results=[tensor.cpu().numpy() for tensor in results],
        hooks=tuple(hooks_of(module)),
    )
    return Run(calls=calls, observed=observed)


def _copied(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value


def probes(
    layer: nn.Module, calls: Sequence[Call], thresholds: Iterable[torch.Tensor], least: int = 1
) -> list[Call]:
    """Return what a layer computes of random inputs on both sides of its thresholds.

    There are at least `least` numbers, of the signs that inputs in the network have. The network's
    own inputs may all lie below a threshold, where they do not tell one bit-width from another.
    """
    largest = max((float(alpha.abs().max()) for alpha in thresholds), default=0.0)
    inputs, _ = calls[0]
    if not largest or len(inputs) != 1 or not isinstance(inputs[0], torch.Tensor):
        return []
    generator = torch.Generator().manual_seed(_SEED)
    found = []
    shape = list(inputs[0].shape)
    if isinstance(layer, nn.Conv2d):
        # A part of an image has enough numbers, and takes less time.
        reaches = zip(layer.kernel_size, layer.dilation, strict=True)
        sizes = [max(_PROBED, gap * (size - 1) + 1) for size, gap in reaches]
        shape[-2:] = map(min, shape[-2:], sizes)
    for reach in _REACHES:
        images = -(-least // math.prod(shape[1:]))
        values = torch.rand((images, *shape[1:]), generator=generator)
        values *= reach * largest
        if any(bool((given[0] < 0).any()) for given, _ in calls):
            values *= torch.randint(0, 2, values.shape, generator=generator) * 2 - 1
        device = next(layer.parameters()).device
        with torch.no_grad(), _evaluating(layer), eagerly():
            output = layer.forward(values.to(device))
        found.append(((values,), _copied(output)))
    return found


def chosen(
    name: str, layer: nn.Module, calls: Sequence[Call], candidates: Iterable[WeightedLayer]
) -> WeightedLayer:
    """Return the first of several layers of ours that computes what the user's does.

    Args:
        name: The user's layer's.
        layer: The user's layer.
        calls: What it computed.
        candidates: Our own layers; the most usual first.

    Raises:
        RecognitionError: All differ; the error is about the closest one.
    """
    tried = 0
    closest = math.inf, RecognitionError("A layer has no formula.", where=name)
    for candidate in candidates:
        tried += 1
        for inputs, output in calls:
            with torch.no_grad():
                wrong = _difference(name, layer, candidate, inputs, output)
            if wrong is not None:
                closest = min(closest, wrong, key=itemgetter(0))
                break
        else:
            return candidate
    _, error = closest
    if tried > 1 and error.expected:
        error.expected += f" (the closest of {tried} formulas tried)"
    raise error


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
    (image,) = inputs
    values, weights = _operands(replacement, image)
    expected = products(replacement, values, weights, replacement.bias)
    distance = torch.tensor(math.inf)
    if output.shape == expected.shape:
        distance = (output - expected).abs()
        # Float noise is worked out as far as it is needed: it takes longer than the layer.
        if not distance.any():
            return None
        # Levels that it tips over are few: most of the numbers agree, or nothing does.
        is_near = distance.square().mean() <= _NEAR**2 * expected.square().mean() + _TINY
        noise = _roundings(replacement, values, weights)
        if bool((distance <= noise).all()):
            return None
        if is_near and bool(
            (distance <= noise + _moved(replacement, image, values, weights)).all()
        ):
            return None
    return float(distance.max()), RecognitionError(
        "A layer of the network computes something else than its family's formula.",
        where=f"{name} ({type(layer).__name__})",
        expected=_formula(replacement),
        got=f"outputs that differ by up to {float(distance.max()):.3g}, far beyond float rounding",
        fix="say how it was trained (--bits, --method, --activation-method, --activation-sign, "
        "--grid, --legacy-divisor, --no-weight-normalization); other formulas cannot be converted",
    )


def _formula(layer: WeightedLayer) -> str:
    """Describe what a layer computes."""
    if not isinstance(layer, QuantizedLayer):
        return "a plain layer, as one of 32 bits is"
    if not isinstance(layer, ThresholdLayer):
        return "8-bit weights: round(w / max(w) * 127)"
    said = layer.quantization
    weights = f"{said.weight_bits}-bit weights"
    normalised = "" if said.normalize_weights else ", not normalised"
    if not layer.quantizes_input:
        return f"family {said.family}: {weights}, level set {said.method}{normalised}; float inputs"
    return (
        f"family {said.family}: {weights} and {said.activation_bits}-bit activations, level sets "
        f"{said.method} and {f'{said.activation_sign} {said.activation_method}'.strip()}"
        f"{normalised}"
    )


# --- float noise ----------------------------------------------------------------------------------


def _operands(
    layer: WeightedLayer | ThresholdLayer, image: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the input and the weights that a layer multiplies."""
    values = layer.quantized_input(image) if isinstance(layer, ThresholdLayer) else image
    if isinstance(layer, QuantizedLayer):
        return values, layer.quantized_weight()
    return values, layer.weight


def _roundings(layer: WeightedLayer, values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return how far the roundings of its sums may move a layer's outputs."""
    bias = None if layer.bias is None else layer.bias.abs()
    roundings = (sum_roundings(weights[0].numel()) + _ROUNDINGS) * 2 * UNIT_ROUNDOFF
    return roundings * products(layer, values.abs(), weights.abs(), bias)


def _moved(
    layer: WeightedLayer, image: torch.Tensor, values: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return how far levels that float noise tips over may move a layer's outputs."""
    moved_values, moved_weights = torch.zeros_like(values), torch.zeros_like(weights)
    if isinstance(layer, ThresholdLayer):
        low, high = (_operands(_scaled(layer, 1 + n), image) for n in (-_NUDGE, _NUDGE))
        moved_values, moved_weights = ((b - a).abs() for a, b in zip(low, high, strict=True))
    elif isinstance(layer, QuantizedLayer):
        steps = layer.weight / layer.weight.max() * _EIGHT_BIT_STEPS
        to_decision = (steps - steps.floor() - 0.5).abs()
        moved = to_decision <= _EIGHT_BIT_STEPS * _NUDGE
        moved_weights = moved * (layer.weight.max().abs() / _EIGHT_BIT_STEPS)
    noise = products(layer, moved_values, weights.abs() + moved_weights)
    return noise + products(layer, values.abs(), moved_weights)


def _scaled(layer: ThresholdLayer, factor: float) -> ThresholdLayer:
    scaled = copy.copy(layer)
    scaled._parameters = {  # noqa: SLF001 - no other copy shares the weights
        name: nn.Parameter(value * factor) if value is not None and "alpha" in name else value
        for name, value in layer._parameters.items()  # noqa: SLF001 - likewise
    }
    return scaled
