"""What quantization did to the weights: before and after, and the error between."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.network import CodedNetwork, SourceLayer, SourceNetwork, WeightQuantizer
from apot_export.network.layers import by_output
from apot_export.network.shown import Shown

_STEPS = "steps"
"""Rule of weights in units of their threshold, which is a step."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Where the numbers of a tensor lie."""

    mean: float
    deviation: float
    smallest: float
    largest: float

    @staticmethod
    def of(numbers: NDArray[np.float64]) -> Spread:
        """Measure a tensor."""
        return Spread(
            mean=float(numbers.mean()),
            deviation=float(numbers.std()),
            smallest=float(numbers.min()),
            largest=float(numbers.max()),
        )


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """The weights of one layer before and after quantization."""

    layer: str
    weights: int
    latent: Spread
    """As the checkpoint holds them."""
    before: Spread
    """As they are quantized: normalised, where training did that."""
    after: Spread
    """As they are stored."""
    clipped: float | None
    """Share of weights beyond the threshold, in [0, 1]; None where there is none."""
    error: float
    """Root mean square of the differences between `before` and `after`."""
    sqnr: float | None
    """Ratio of the mean squares of `before` and of the differences, in dB; None: none differs."""


@dataclass(frozen=True, kw_only=True, repr=False)
class WeightErrors(Shown):
    """What quantization did to every layer's weights, in order of computation."""

    layers: tuple[LayerWeights, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """Return the stable JSON form."""
        return [dataclasses.asdict(layer) for layer in self.layers]

    def _facts(self) -> Iterator[tuple[str, object]]:
        found = [layer.sqnr for layer in self.layers if layer.sqnr is not None]
        yield "layers", len(self.layers)
        yield "weights", f"{sum(layer.weights for layer in self.layers):,}"
        yield "SQNR", f"{min(found):.1f} to {max(found):.1f} dB" if found else "no weight differs"


def weight_errors(source: SourceNetwork, coded: CodedNetwork) -> WeightErrors:
    """Compare the weights that training left with those that are stored."""
    return WeightErrors(
        layers=tuple(
            _of_layer(source.layers[name], layer.weights()) for name, layer in coded.layers.items()
        )
    )


def _of_layer(layer: SourceLayer, stored: NDArray[np.float32]) -> LayerWeights:
    latent, after = layer.weight.astype(np.float64), stored.astype(np.float64)
    before, clipped, quantizer = as_quantized(layer), None, layer.quantizer
    if isinstance(quantizer, WeightQuantizer):
        clipped = _clipped(before, quantizer)
    error = float(np.mean((before - after) ** 2))
    signal = float(np.mean(before**2))
    return LayerWeights(
        layer=layer.name,
        weights=latent.size,
        latent=Spread.of(latent),
        before=Spread.of(before),
        after=Spread.of(after),
        clipped=clipped,
        error=math.sqrt(error),
        sqnr=10 * math.log10(signal / error) if error and signal else None,
    )


def as_quantized(layer: SourceLayer) -> NDArray[np.float64]:
    """Return a layer's weights as they are quantized: normalised, where training did that."""
    latent, quantizer = layer.weight.astype(np.float64), layer.quantizer
    if (
        not isinstance(quantizer, WeightQuantizer)
        or quantizer.mean is None
        or quantizer.std is None
    ):
        return latent
    return np.asarray((latent - float(quantizer.mean)) / float(quantizer.std))


def _clipped(before: NDArray[np.float64], quantizer: WeightQuantizer) -> float:
    alpha = np.abs(np.atleast_1d(quantizer.alpha)).astype(np.float32)
    scaled = before / by_output(alpha, before.ndim)
    levels = quantizer.codebook.levels if quantizer.rule == _STEPS else np.array([-1, 1])
    return float(np.mean((scaled < levels.min()) | (scaled > levels.max())))
