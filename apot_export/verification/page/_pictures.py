"""Pixels as PNG files inside a page."""

from __future__ import annotations

import base64
import io
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from apot_export.errors import DatasetError

_LARGEST = 128
"""Pixels of a side in the page; larger images would make it heavy."""
_DIMENSIONS = 3


class Picture(NamedTuple):
    """An image as a page shows it; sides are in pixels."""

    address: str
    """A data URI that holds the image."""
    width: int
    height: int
    factor: int
    """By how much each side was divided."""


def picture(pixels: NDArray[np.uint8], largest: int = _LARGEST) -> Picture:
    """Return an image as a PNG file in a data URI, with no side above `largest`.

    Args:
        pixels: uint8 [height, width, channels] with 1 or 3 channels, no side empty.
        largest: Pixels; a larger image is averaged over squares.

    Raises:
        DatasetError: The pixels are something else.
    """
    shape = pixels.shape
    fits = pixels.dtype == np.uint8 and len(shape) == _DIMENSIONS and pixels.size
    if not fits or shape[2] not in {1, 3}:
        raise DatasetError(
            "An image cannot be shown.",
            expected="uint8 [height, width, channels] with 1 or 3 channels",
            got=f"{pixels.dtype} {list(shape)}",
        )
    factor = math.ceil(max(shape[:2]) / largest)
    image = Image.fromarray(pixels[:, :, 0] if shape[2] == 1 else pixels).reduce(factor)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return Picture(address, image.width, image.height, factor)
