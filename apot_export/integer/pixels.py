"""Pixels of 8 bits as the input of integer networks."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_PIXEL = 255


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """(pixel / 255 - mean) / std per channel: what training made of uint8 pixels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def scales(self, units: Fraction) -> tuple[list[Fraction], list[Fraction]]:
        """Return, by channel, the units per pixel and those of pixel 0; decimals are exact."""
        means, deviations = (
            [Fraction(str(number)) for number in numbers] for numbers in (self.mean, self.std)
        )
        ratios = [units / (LARGEST_PIXEL * deviation) for deviation in deviations]
        biases = [
            -mean / deviation * units for mean, deviation in zip(means, deviations, strict=True)
        ]
        return ratios, biases

    def of_images(self, images: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the pixels of preprocessed images: float32 [N, C, H, W] to uint8."""
        axes = (1, -1, 1, 1)
        mean, std = (np.array(values).reshape(axes) for values in (self.mean, self.std))
        values = np.rint((images.astype(np.float64) * std + mean) * LARGEST_PIXEL)
        return np.clip(values, 0, LARGEST_PIXEL).astype(np.uint8)

    def to_json(self) -> dict[str, Any]:
        """Return the form that manifests store."""
        return {"mean": list(self.mean), "std": list(self.std)}
