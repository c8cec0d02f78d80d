"""Images and arrays that declare much more than their files hold."""

from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

import apot_export
from apot_export.datasets import open_arrays
from apot_export.datasets._locating import read_image
from apot_export.datasets._mnist import MNIST
from apot_export.errors import DatasetError


@pytest.fixture(autouse=True)
def _little_memory() -> object:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20


def png(width: int, height: int) -> bytes:
    """Return the start of a grey image of a size."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


@pytest.mark.filterwarnings("ignore:Image size")
def test_an_image_of_too_many_pixels(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(png(20_000, 16_000))
    with pytest.raises(DatasetError, match=r"bytes of decoded data|decompression bomb"):
        read_image(path)
    path.write_bytes(png(12_000, 12_000))
    with (
        apot_export.max_memory(100 << 20),
        pytest.raises(DatasetError, match="144000000 in a file of"),
    ):
        read_image(path)


def test_an_array_that_declares_too_much(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    for declared, entry in ((1 << 22, "images.npy"), (1 << 40, "images.npy")):
        header = io.BytesIO()
        described = {"descr": "<f4", "fortran_order": False, "shape": (declared, 3, 8, 8)}
        np.lib.format.write_array_header_1_0(header, described)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(entry, header.getvalue() + bytes(100))
        with pytest.raises(DatasetError, match="bytes of decoded data") as caught:
            open_arrays(path, input_shape=(3, 8, 8), output_shape=(10,), normalisation=lambda: None)
        assert caught.value.where == f"{path}: images"


def test_an_archive_of_mnist_that_declares_too_much(tmp_path: Path) -> None:
    header = struct.pack(">HBB3I", 0, 8, 3, 900_000, 28, 28)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(header))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, 0))
    with pytest.raises(DatasetError, match="bytes of decoded data"):
        MNIST.open(tmp_path)
