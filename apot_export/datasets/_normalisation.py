"""Normalisation of pixels: (pixel / white - mean) / std per channel, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

APOT_CODE, ALQ_CODE = "apot-code", "alq-code"
"""Training codes, which normalise the same dataset with different means and deviations."""


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Mean and deviation per channel, of pixels scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: int = 255
    """The brightest pixel, which is scaled to 1."""

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (pixels / white - mean) / std: uint8 [H, W, C] to float32 [C, H, W].

        The result is contiguous.

        >>> half = Normalisation(mean=(0.5,), std=(0.25,))
        >>> half(np.array([[[0], [255]]], dtype=np.uint8)).tolist()
        [[[-2.0, 2.0]]]
        """
        mean, std = self._planes()
        # In memory too, channels come first, as in training: PyTorch's choice among convolution
        # algorithms, and with it the last bits of its results, follows the order in memory.
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        image = planes.astype(np.float32) / np.float32(self.white)
        return np.asarray((image - mean) / std, dtype=np.float32)

    def picture(self, pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Undo the normalisation, for people to look at: float32 [C, H, W] to uint8 [H, W, C].

        Values beyond black and white are clipped, the others rounded to the nearest.

        >>> half = Normalisation(mean=(0.5,), std=(0.25,))
        >>> half.picture(np.array([[[-2, 0.004, 9]]], dtype=np.float32)).tolist()
        [[[0], [128], [255]]]
        """
        return self._pixels(pixels, 255)

    def pixels(self, image: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the pixels that an image was made of: float32 [C, H, W] to uint8 [H, W, C].

        >>> sixteen = Normalisation(mean=(0,), std=(1,), white=16)
        >>> sixteen.pixels(sixteen(np.array([[[3], [16]]], dtype=np.uint8))).tolist()
        [[[3], [16]]]
        """
        return self._pixels(image, self.white)

    def _pixels(self, image: NDArray[np.float32], white: int) -> NDArray[np.uint8]:
        mean, std = self._planes()
        scaled = np.rint((image * std + mean) * np.float32(white))
        return np.clip(scaled, 0, white).astype(np.uint8).transpose(1, 2, 0)

    def _planes(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return mean and deviation as float32 [C, 1, 1]."""
        mean, std = (
            np.array(values, dtype=np.float32).reshape(-1, 1, 1) for values in (self.mean, self.std)
        )
        return mean, std
