"""Pixels as PNG files inside of a page.

Source of the format: W3C, Portable Network Graphics (third edition), 2025.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from apot_export.errors import DatasetError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 3: 2}
"""Colour type by channels: greyscale and truecolour."""
_DIMENSIONS = 3
_SUB, _UP = 1, 2
"""Filter types: what is left and what is above is subtracted."""


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return an image as a PNG file.

    Args:
        pixels: uint8 [height, width, channels] with 1 or 3 channels, no side empty.

    Raises:
        DatasetError: The pixels are something else.
    """
    shape = pixels.shape
    fits = pixels.dtype == np.uint8 and len(shape) == _DIMENSIONS and pixels.size
    if not fits or shape[2] not in _COLOUR_TYPES:
        raise DatasetError(
            "An image cannot be shown.",
            expected="uint8 [height, width, channels] with 1 or 3 channels",
            got=f"{pixels.dtype} {list(shape)}",
        )
    height, width, channels = shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    packed = zlib.compress(_filtered(pixels.reshape(height, -1), channels), 9)
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def _filtered(rows: NDArray[np.uint8], channels: int) -> bytes:
    """Return every row as the filter type that leaves the smallest differences, and those."""
    left = np.zeros_like(rows)
    left[:, channels:] = rows[:, :-channels]
    above = np.zeros_like(rows)
    above[1:] = rows[:-1]
    candidates = {0: rows, _SUB: rows - left, _UP: rows - above}  # modulo 256, as uint8 wraps
    sizes = [
        np.abs(kept.view(np.int8).astype(np.int64)).sum(axis=1) for kept in candidates.values()
    ]
    lines = []
    for row, choice in enumerate(np.argmin(sizes, axis=0)):
        kind = list(candidates)[choice]
        lines.append(bytes([kind]) + candidates[kind][row].tobytes())
    return b"".join(lines)


def shrunk(pixels: NDArray[np.uint8], largest: int) -> tuple[NDArray[np.uint8], int]:
    """Return an image with no side above `largest`, and by what it was divided.

    Every pixel is the mean of a square of the original's; what does not fill a square is cut off.

    >>> image, factor = shrunk(np.full((5, 4, 1), 7, np.uint8), 2)
    >>> image.shape, factor
    ((1, 1, 1), 3)
    """
    height, width, channels = pixels.shape
    factor = min(-(-max(height, width) // largest), height, width)
    if factor <= 1:
        return pixels, 1
    rows, columns = height // factor, width // factor
    squares = pixels[: rows * factor, : columns * factor].reshape(
        rows, factor, columns, factor, channels
    )
    return np.round(squares.mean(axis=(1, 3))).astype(np.uint8), factor


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """Return an image as an address that holds it.

    Raises:
        DatasetError: As `png`.
    """
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")
