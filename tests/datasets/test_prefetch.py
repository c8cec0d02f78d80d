"""Reading ahead: the same images in the same order, damaged ones skipped, no thread left behind."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from apot_export.datasets import Batch, Dataset, kind_by_name
from apot_export.datasets._locating import read_image
from apot_export.errors import DatasetError

WORKERS = [0, 1, 3]
Floats = NDArray[np.float32]


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("apot-export")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert ours() == []


def counting(count: int, damaged: tuple[int, ...] = (), log: list[int] | None = None) -> Dataset:
    """Return a dataset whose image i is filled with i, and some cannot be read."""

    def load(index: int) -> Floats:
        if log is not None:
            log.append(index)
        if index in damaged:
            raise DatasetError("An image cannot be read.", where="/a/b.png", got=f"noise\n{index}")
        return np.full((1, 2, 2), index, dtype=np.float32)

    labels = np.arange(count, dtype=np.int64) % 4
    return Dataset(name="counting", root="nowhere", labels=labels, load=load)


def ranges(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


@pytest.mark.parametrize("workers", WORKERS)
def test_batches_are_the_same_as_without_reading_ahead(workers: int) -> None:
    dataset = counting(23)
    read = list(dataset.prefetched(ranges(23, 5), workers))
    plain = list(dataset.batches(5))
    assert len(read) == len(plain) == 5
    for batch, (images, labels) in zip(read, plain, strict=True):
        np.testing.assert_array_equal(batch.images, images)
        np.testing.assert_array_equal(batch.labels, labels)
        assert batch.images.dtype == np.float32
        assert batch.labels.dtype == np.int64
        assert batch.skipped == ()
    indices = np.concatenate([batch.indices for batch in read])
    assert indices.dtype == np.int64
    assert indices.tolist() == list(range(23))


@pytest.mark.parametrize("workers", WORKERS)
def test_ranges_may_be_any(workers: int) -> None:
    chosen = [range(7, 9), range(0), range(2, 8, 3)]
    read = list(counting(10).prefetched(chosen, workers))
    assert [batch.indices.tolist() for batch in read] == [[7, 8], [], [2, 5]]
    assert [batch.labels.tolist() for batch in read] == [[3, 0], [], [2, 1]]
    assert read[2].images[:, 0, 0, 0].tolist() == [2, 5]


@pytest.mark.parametrize("workers", WORKERS)
def test_images_that_cannot_be_read_are_skipped(workers: int) -> None:
    read = list(counting(7, damaged=(1, 3, 4, 5)).prefetched(ranges(7, 3), workers))
    assert [batch.indices.tolist() for batch in read] == [[0, 2], [], [6]]
    assert [batch.labels.tolist() for batch in read] == [[0, 2], [], [2]]
    assert [len(batch.images) for batch in read] == [2, 0, 1]
    assert read[1].images.ndim == 4
    assert read[0].skipped == ((1, "An image cannot be read: got noise 1"),)
    assert [index for index, _ in read[1].skipped] == [3, 4, 5]


@pytest.mark.parametrize("workers", WORKERS)
def test_other_exceptions_are_not_swallowed(workers: int) -> None:
    def load(index: int) -> Floats:
        if index == 4:
            raise ZeroDivisionError
        return np.zeros((1, 1, 1), dtype=np.float32)

    dataset = Dataset(name="d", root="", labels=np.zeros(20, dtype=np.int64), load=load)
    batches = dataset.prefetched(ranges(20, 2), workers)
    assert [len(next(batches).images) for _ in range(2)] == [2, 2]
    with pytest.raises(ZeroDivisionError):
        next(batches)


@pytest.mark.parametrize("workers", WORKERS)
def test_reading_is_at_most_two_batches_ahead(workers: int) -> None:
    log: list[int] = []
    batches = counting(100, log=log).prefetched(ranges(100, 5), workers)
    for taken in range(1, 18):
        batch = next(batches)
        assert set(batch.indices.tolist()) <= set(log)
        assert max(log) < 5 * (taken + 2)
    batches.close()


def test_reading_goes_on_while_the_consumer_computes() -> None:
    read = threading.Event()

    def load(index: int) -> Floats:
        if index == 2:
            read.set()
        return np.zeros((1, 1, 1), dtype=np.float32)

    dataset = Dataset(name="d", root="", labels=np.zeros(3, dtype=np.int64), load=load)
    batches = dataset.prefetched(ranges(3, 1), 1)
    next(batches)
    assert read.wait(timeout=60)  # nobody asked for it yet
    assert len(list(batches)) == 2


def test_an_iterator_that_nobody_started_has_no_threads() -> None:
    batches = counting(10).prefetched(ranges(10, 2), 3)
    assert ours() == []
    del batches


def test_threads_end_when_the_consumer_stops() -> None:
    batches = counting(1000).prefetched(ranges(1000, 2), 3)
    next(batches)
    assert 1 <= len(ours()) <= 3
    batches.close()
    assert ours() == []


def test_threads_end_when_the_consumer_raises() -> None:
    def consume() -> None:
        for _ in counting(1000).prefetched(ranges(1000, 2), 3):
            assert ours()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()
    assert ours() == []


# --- image files ----------------------------------------------------------------------------------


def photograph(seed: int, height: int = 300, width: int = 260) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height))


@pytest.fixture
def damaged_folder(tmp_path: Path) -> Path:
    """Write six photographs, of which four are none."""
    folder = tmp_path / "n01440764"
    folder.mkdir()
    for index in range(6):
        photograph(index).save(folder / f"{index}.JPEG")
    whole = (folder / "1.JPEG").read_bytes()
    (folder / "1.JPEG").write_bytes(whole[: len(whole) // 2])
    (folder / "2.JPEG").write_bytes(b"")
    (folder / "3.JPEG").write_text("The image was moved.\n")
    (folder / "5.JPEG").unlink()
    (folder / "5.JPEG").mkdir()
    return tmp_path


@pytest.mark.parametrize("workers", WORKERS)
def test_damaged_files_among_good_ones_are_skipped(damaged_folder: Path, workers: int) -> None:
    dataset = kind_by_name("imagenet").open(damaged_folder)
    (batch,) = dataset.prefetched([range(6)], workers)
    assert isinstance(batch, Batch)
    assert batch.indices.tolist() == [0, 4]
    np.testing.assert_array_equal(batch.images[1], dataset.load(4))
    reasons = dict(batch.skipped)
    assert list(reasons) == [1, 2, 3, 5]
    assert "truncated" in reasons[1]
    assert reasons[2] == "An image cannot be read: got an empty file"
    assert reasons[3] == "An image cannot be read: got a file of no known image format"
    assert "directory" in reasons[5]
    with pytest.raises(DatasetError, match="cannot be read"):
        list(dataset.batches(6))


def test_an_image_of_the_wrong_size_is_skipped(tmp_path: Path) -> None:
    for index, size in enumerate([(32, 32), (30, 28)]):
        path = tmp_path / f"cat/{index}.png"
        path.parent.mkdir(exist_ok=True)
        photograph(index).resize(size).save(path)
    (batch,) = kind_by_name("cifar10").open(tmp_path).prefetched([range(2)], 1)
    expected = "An image does not have CIFAR's size: expected 32 x 32, got 30 x 28"
    assert batch.skipped == ((1, expected),)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_no_damage_of_a_file_gets_past_the_error(kind: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    photograph(0, 60, 40).save(buffer, format=kind)
    whole = buffer.getvalue()
    random = np.random.default_rng(0)
    path = tmp_path / "a.png"
    refused = []
    for _ in range(300):
        damaged = bytearray(whole[: random.integers(1, len(whole) + 1)])
        for position in random.integers(0, len(damaged), 4):
            damaged[position] = random.integers(256)
        path.write_bytes(damaged)
        try:
            read_image(path)
        except DatasetError as error:
            refused.append(error.where)
    assert refused
    assert set(refused) == {str(path)}


def test_deep_pixels_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(path)
    with pytest.raises(DatasetError, match="cannot be read") as caught:
        read_image(path)
    assert "not of 8 bits" in (caught.value.got or "")
