"""Choosing the inputs of an export's sample."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts.sample import SYNTHETIC, Sample
from apot_export.errors import DatasetError
from apot_export.integer import Pixels
from apot_export.network import CodedNetwork
from apot_export.network.graph import products

if TYPE_CHECKING:
    from apot_export.datasets import Dataset, Normalisation

_MOST = 8
_MOST_NUMBERS = _MOST * 3 * 224 * 224
"""Numbers of all inputs; networks of larger images get fewer than `_MOST`."""
_MOST_PRODUCTS = 15_000_000_000
"""Products of weights for all inputs: a few seconds. Larger networks get fewer, too."""
_CENTRE, _UNIT = np.float32(127.5), np.float32(64)


def images_at_hand(coded: CodedNetwork, code: str, data: str | None) -> Dataset | None:
    """Return the images of a network's data set; None where there are none and none were named.

    Args:
        coded: The network.
        code: Whose preprocessing it was trained with: see `Family.preprocessing`.
        data: Folder of the images; None for $APOT_EXPORT_DATA or ./data.

    Raises:
        DatasetError: The folder that was named holds none.
    """
    # Only here: it takes time, and other uses of this package do without.
    from apot_export.datasets import kind_of

    try:
        kind = kind_of(None, coded.input_shape, coded.shapes[coded.output][0])
        return kind.open(None if data is None else Path(data), code)
    except DatasetError:
        if data is not None:
            raise
        return None


def choose_sample(
    coded: CodedNetwork,
    preprocessing: Mapping[str, Any] | None,
    pixels: Pixels | None,
    images: Dataset | None,
) -> Sample:
    """Return inputs for a network, without the outputs that belong to them.

    Args:
        coded: The network.
        preprocessing: See FORMAT.md, section 2.6; None where it is not known.
        pixels: What the integer network does with pixels; None where it reads none.
        images: The data set's images; None where they are not at hand: then inputs are noise.
    """
    from apot_export.datasets import Normalisation

    numbers = math.prod(coded.input_shape)
    most = min(_MOST_NUMBERS // numbers, _MOST_PRODUCTS // max(1, products(coded)))
    count = max(1, min(_MOST, most))
    stated: Normalisation | None = None
    if preprocessing is not None:
        mean, std = (tuple(preprocessing[name]) for name in ("mean", "std"))
        stated = Normalisation(mean=mean, std=std, white=preprocessing["range"][1])
        if images is not None:
            try:
                return _real(images.first(count), stated)
            except DatasetError:  # a file that cannot be read: as good as none
                pass
    elif pixels is not None:
        stated = Normalisation(mean=pixels.mean, std=pixels.std)
    return _noise(coded.input_shape, count, stated)


def _real(images: Dataset, normalisation: Normalisation) -> Sample:
    inputs = np.stack([images.load(index) for index in range(len(images))])
    return Sample(
        source=images.name,
        inputs=inputs,
        images=np.stack([normalisation.pixels(image) for image in inputs]),
        labels=images.labels if images.labelled else None,
    )


def _noise(shape: tuple[int, ...], count: int, normalisation: Normalisation | None) -> Sample:
    """Return the same noise everywhere: pixels if their normalisation is known, else numbers."""
    octets = hashlib.shake_256(b"apot-export sample").digest(count * math.prod(shape))
    noise: NDArray[np.uint8] = np.frombuffer(octets, np.uint8).reshape(count, *shape)
    if normalisation is None:
        inputs = (noise.astype(np.float32) - _CENTRE) / _UNIT
        return Sample(source=SYNTHETIC, inputs=inputs)
    levels = noise.transpose(0, 2, 3, 1).astype(np.uint16) % (normalisation.white + 1)
    images = levels.astype(np.uint8)
    inputs = np.stack([normalisation(image) for image in images])
    return Sample(source=SYNTHETIC, inputs=inputs, images=np.ascontiguousarray(images))
