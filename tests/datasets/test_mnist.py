"""MNIST and CIFAR-100: found where users have them, preprocessed as in training."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision import datasets as torchvision_datasets

from apot_export.datasets import ROOT_VARIABLE, kind_by_name, kind_of
from apot_export.errors import DatasetError

MNIST = kind_by_name("mnist")
CIFAR10 = kind_by_name("cifar10")
CIFAR100 = kind_by_name("cifar100")
IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run where no dataset lies and no variable names one."""
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def normalised(
    pixels: NDArray[np.uint8], mean: list[float], std: list[float]
) -> NDArray[np.float32]:
    """Preprocess C H W as the golden outputs' description says."""
    m, s = (np.array(values, dtype=np.float32).reshape(-1, 1, 1) for values in (mean, std))
    return np.asarray((pixels.astype(np.float32) / np.float32(255) - m) / s)


def write_mnist(folder: Path, count: int = 3, *, packed: bool = False) -> NDArray[np.uint8]:
    pixels = noise(1, count, 28, 28)
    labels = np.arange(count, dtype=np.uint8) % 10
    files = {
        IMAGES: struct.pack(">IIII", 0x803, count, 28, 28) + pixels.tobytes(),
        LABELS: struct.pack(">II", 0x801, count) + labels.tobytes(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return pixels


# --- MNIST ----------------------------------------------------------------------------------------


def test_the_official_archives_are_read(reference: Path) -> None:
    dataset = MNIST.open(reference / "datasets/MNIST")
    assert len(dataset) == 10_000
    assert dataset.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert dataset.load(0).shape == (1, 28, 28)
    assert dataset.load(0).dtype == np.float32


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw"])
def test_archives_are_found_in_the_usual_places(tmp_path: Path, below: str, packed: bool) -> None:
    pixels = write_mnist(tmp_path / "data" / below, packed=packed)
    dataset = MNIST.open(tmp_path / "data")
    assert Path(dataset.root) == tmp_path / "data" / below
    assert dataset.labels.tolist() == [0, 1, 2]
    for index in range(3):
        expected = normalised(pixels[index : index + 1], [0.131], [0.308])
        np.testing.assert_array_equal(dataset.load(index), expected)


def test_the_environment_and_the_current_folder_are_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(Path("data/MNIST/raw"))
    assert Path(MNIST.open(None).root) == Path("data/MNIST/raw")
    write_mnist(tmp_path / "named/raw")
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "named"))
    assert Path(MNIST.open(None).root) == tmp_path / "named/raw"


def test_the_alq_code_normalises_differently(tmp_path: Path) -> None:
    pixels = write_mnist(tmp_path)
    expected = normalised(pixels[:1], [0.1307], [0.3081])
    np.testing.assert_array_equal(MNIST.open(tmp_path, "alq-code").load(0), expected)
    expected = normalised(pixels[:1], [0.131], [0.308])
    np.testing.assert_array_equal(MNIST.open(tmp_path, "apot-code").load(0), expected)


def test_missing_archives_are_an_error_that_lists_the_folders(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="MNIST test images were not found") as caught:
        MNIST.open(tmp_path / "given")
    assert str(tmp_path / "given/MNIST/raw") in (caught.value.where or "")
    assert IMAGES in (caught.value.expected or "")


@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_one_archive_alone_is_an_error(tmp_path: Path, name: str) -> None:
    write_mnist(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DatasetError, match="One of MNIST's two archives is missing") as caught:
        MNIST.open(tmp_path)
    assert caught.value.where == str(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        struct.pack(">IIII", 0x801, 3, 28, 28) + bytes(3 * 784),
        struct.pack(">IIII", 0x803, 3, 28, 27) + bytes(3 * 784),
        struct.pack(">IIII", 0x803, 3, 28, 28) + bytes(3 * 784 - 1),
        struct.pack(">IIII", 0x803, 3, 28, 28) + bytes(3 * 784 + 1),
        struct.pack(">IIII", 0x803, 0xFFFFFFFF, 28, 28),
    ],
    ids=["empty", "header", "kind", "shape", "short", "long", "huge"],
)
def test_a_damaged_archive_is_an_error(tmp_path: Path, content: bytes) -> None:
    write_mnist(tmp_path)
    (tmp_path / IMAGES).write_bytes(content)
    with pytest.raises(DatasetError, match=r"archive is damaged|more memory") as caught:
        MNIST.open(tmp_path)
    assert caught.value.where == str(tmp_path / IMAGES)


def test_damaged_compression_is_an_error(tmp_path: Path) -> None:
    write_mnist(tmp_path, packed=True)
    path = tmp_path / f"{IMAGES}.gz"
    whole = path.read_bytes()
    for content in (b"", b"no gzip", whole[: len(whole) // 2], whole[:20] + b"\xff" * 40):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match="archive is damaged"):
            MNIST.open(tmp_path)


@pytest.mark.parametrize("labels", [bytes([1, 2]), bytes([1, 2, 10])], ids=["count", "class"])
def test_labels_that_do_not_fit_are_an_error(tmp_path: Path, labels: bytes) -> None:
    write_mnist(tmp_path)
    (tmp_path / LABELS).write_bytes(struct.pack(">II", 0x801, len(labels)) + labels)
    with pytest.raises(DatasetError, match="do not fit"):
        MNIST.open(tmp_path)


# --- CIFAR-100 ------------------------------------------------------------------------------------


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_networks_find_their_dataset() -> None:
    assert kind_of(None, (3, 32, 32), 100) is CIFAR100
    assert kind_of(None, (1, 28, 28), 10) is MNIST


def test_torchvisions_layout_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = noise(2, 4, 3072)
    batch = {"data": pixels, "fine_labels": [0, 99, 5, 50], "coarse_labels": [0, 1, 2, 3]}
    digests = {}
    for name, content in (("test", batch), ("meta", {"fine_label_names": ["apple"]})):
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        digests[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()  # noqa: S324 - theirs
    theirs = torchvision_datasets.CIFAR100
    monkeypatch.setattr(theirs, "test_list", [["test", digests["test"]]])
    monkeypatch.setattr(theirs, "meta", {**theirs.meta, "md5": digests["meta"]})
    dataset = CIFAR100.open(tmp_path)
    assert (dataset.name, dataset.labels.tolist()) == ("cifar100", [0, 99, 5, 50])
    expected = normalised(
        pixels[1].reshape(3, 32, 32), [0.491, 0.482, 0.447], [0.247, 0.243, 0.262]
    )
    np.testing.assert_array_equal(dataset.load(1), expected)
    (folder / "test").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(DatasetError, match="CIFAR-100 test batch is missing or damaged"):
        CIFAR100.open(tmp_path)


@pytest.mark.parametrize(
    ("folders", "labels"),
    [(("0", "10", "99"), [0, 10, 99]), (("apple", "forest", "worm"), [0, 33, 99])],
    ids=["numbers", "names"],
)
def test_class_folders_are_named_by_number_or_class(
    tmp_path: Path, folders: tuple[str, ...], labels: list[int]
) -> None:
    for seed, folder in enumerate(folders):
        save(tmp_path / "cifar100" / folder / "a.png", noise(seed, 32, 32, 3))
    dataset = CIFAR100.open(tmp_path)
    assert dataset.labels.tolist() == labels
    assert dataset.load(2).shape == (3, 32, 32)


@pytest.mark.parametrize("folder", ["100", "zebra", "-1", "²"])
def test_other_class_folders_are_an_error(tmp_path: Path, folder: str) -> None:
    save(tmp_path / "data" / folder / "a.png", noise(0, 32, 32, 3))
    with pytest.raises(DatasetError, match="classes that CIFAR-100 does not have") as caught:
        CIFAR100.open(tmp_path / "data")
    assert caught.value.got == folder


def test_missing_images_are_an_error() -> None:
    with pytest.raises(DatasetError, match="CIFAR-100 images were not found") as caught:
        CIFAR100.open(None)
    assert "cifar-100-python" in (caught.value.expected or "")


def test_the_alq_code_normalises_cifar10_differently(tmp_path: Path) -> None:
    pixels = noise(0, 32, 32, 3)
    save(tmp_path / "cat/a.png", pixels)
    planes = pixels.transpose(2, 0, 1)
    expected = normalised(planes, [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
    np.testing.assert_array_equal(CIFAR10.open(tmp_path, "alq-code").load(0), expected)
    expected = normalised(planes, [0.491, 0.482, 0.447], [0.247, 0.243, 0.262])
    np.testing.assert_array_equal(CIFAR10.open(tmp_path, "apot-code").load(0), expected)


def test_an_unknown_preprocessing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="preprocessing is unknown") as caught:
        MNIST.open(tmp_path, "alq")
    assert caught.value.expected == "apot-code or alq-code"
