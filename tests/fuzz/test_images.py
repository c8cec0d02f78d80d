"""Image files and MNIST's archives that are wrong anywhere: refused, or read as they are."""

from __future__ import annotations

import gzip
import io
import struct
import warnings
import zlib
from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from apot_export.datasets import _mnist
from apot_export.datasets._locating import read_image
from apot_export.errors import DatasetError
from tests.support.fuzzing import damaged, run_examples, scratch

OUTCOMES: Counter[str] = Counter()
FORMATS = ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "ICO", "JPEG2000", "PCX"]
MODES = ["RGB", "L", "P", "RGBA", "1", "LA", "I;16"]


@cache
def sound_images() -> list[bytes]:
    """Return small images in all formats and kinds of pixels that Pillow writes."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    found = []
    for kind in FORMATS:
        for mode in MODES:
            buffer = io.BytesIO()
            try:
                Image.fromarray(pixels).convert(mode).save(buffer, kind)
            except (OSError, ValueError, KeyError):
                continue
            found.append(buffer.getvalue())
    return found


def changed_image(data: st.DataObject) -> bytes:
    content = bytearray(data.draw(st.sampled_from(sound_images())))
    for _ in range(data.draw(st.integers(1, 3))):
        # Most of what matters is at the start.
        place = data.draw(st.integers(0, min(len(content), 120) - 1))
        size = data.draw(st.sampled_from([1, 1, 2, 4]))
        value = data.draw(st.sampled_from([0, 1, 255, 1 << 15, (1 << 31) - 1, (1 << 32) - 1]))
        content[place : place + size] = value.to_bytes(4, "big")[-size:]
    image = _with_checksums(bytes(content))
    return damaged(data, image) if data.draw(st.integers(0, 3)) == 0 else image


def _with_checksums(content: bytes) -> bytes:
    """Mend the checksums of a PNG's chunks, as far as there are chunks."""
    if not content.startswith(b"\x89PNG"):
        return content
    mended, place = content[:8], 8
    while place + 12 <= len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        body = content[place + 4 : place + 8 + size]
        mended += content[place : place + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        place += 12 + size
    return mended


@given(st.data())
def check_that_images_are_read_or_refused(data: st.DataObject) -> None:
    path = scratch() / "image"
    path.write_bytes(changed_image(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damage that it mends
        try:
            image = read_image(path, data.draw(st.sampled_from(["RGB", "L"])))
        except DatasetError:
            OUTCOMES["refused"] += 1
            return
    OUTCOMES["read"] += 1
    assert np.asarray(image).dtype == np.uint8


def changed_archive(data: st.DataObject) -> bytes:
    fields = [0x803, 2, 28, 28]
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, 3))
        fields[place] = data.draw(st.sampled_from([0, 1, 3, 27, 0x801, 0xD03, (1 << 32) - 1]))
    content = struct.pack(">4I", *fields) + bytes(2 * 28 * 28)
    if data.draw(st.integers(0, 3)) == 0:
        content = damaged(data, content)
    content = gzip.compress(content, mtime=0)
    return damaged(data, content) if data.draw(st.integers(0, 2)) == 0 else content


@given(st.data())
def check_that_archives_are_read_or_refused(data: st.DataObject) -> None:
    path = scratch() / "images.gz"
    path.write_bytes(changed_archive(data))
    try:
        pixels = _mnist._read(path, (28, 28))
    except DatasetError:
        OUTCOMES["refused"] += 1
        return
    OUTCOMES["read"] += 1
    assert pixels.shape[1:] == (28, 28)


@pytest.mark.parametrize(
    "check", [check_that_images_are_read_or_refused, check_that_archives_are_read_or_refused]
)
def test_images_are_read_or_refused(check: object) -> None:
    OUTCOMES.clear()
    run_examples(check, 400)
    assert min(OUTCOMES["read"], OUTCOMES["refused"]) > 60, OUTCOMES
