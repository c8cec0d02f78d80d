"""Datasets: found where users have them, preprocessed as in training, clear when they are not."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision import datasets as torchvision_datasets

from apot_export.datasets import (
    KINDS,
    ROOT_VARIABLE,
    Dataset,
    DatasetKind,
    kind_by_name,
    kind_of,
)
from apot_export.errors import DatasetError

CIFAR = kind_by_name("cifar10")
IMAGENET = kind_by_name("imagenet")
DIGITS = kind_by_name("digits")
FITTING = "cifar10, cifar100, mnist, imagenet, digits"
Pixels = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run where no dataset lies and no variable names one."""
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


def noise(seed: int, *shape: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def normalised(pixels: Pixels) -> NDArray[np.float32]:
    """Preprocess N C H W as the golden outputs' description says."""
    mean = np.array([0.491, 0.482, 0.447], dtype=np.float32).reshape(3, 1, 1)
    std = np.array([0.247, 0.243, 0.262], dtype=np.float32).reshape(3, 1, 1)
    return np.asarray((pixels.astype(np.float32) / np.float32(255) - mean) / std)


def everything(dataset: Dataset) -> NDArray[np.float32]:
    return np.concatenate([images for images, _ in dataset.batches(100)])


# --- which ----------------------------------------------------------------------------------------


def test_the_dataset_that_fits_is_found() -> None:
    for kind in KINDS:
        assert kind_of(None, kind.input_shape, kind.classes) is kind
        assert kind_by_name(kind.name) is kind


@pytest.mark.parametrize(("shape", "classes"), [((3, 32, 32), 1000), ((1, 28, 28), 47)])
def test_a_network_that_no_dataset_fits_is_an_error(
    shape: tuple[int, int, int], classes: int
) -> None:
    with pytest.raises(DatasetError, match="cannot be told") as caught:
        kind_of(None, shape, classes)
    assert caught.value.expected == FITTING
    assert "folder" in (caught.value.fix or "")


def test_an_unknown_name_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(DatasetError) as caught:
        kind_by_name("svhn")
    assert (caught.value.got, caught.value.expected) == ("svhn", FITTING + ", folder")


# --- limits and batches ---------------------------------------------------------------------------


def counting(count: int) -> Dataset:
    return Dataset(
        name="counting",
        root="nowhere",
        labels=np.arange(count, dtype=np.int64),
        load=lambda index: np.full((1, 2, 2), index, dtype=np.float32),
    )


@pytest.mark.parametrize(
    ("limit", "labels"),
    [
        (None, list(range(10))),
        (10, list(range(10))),
        (99, list(range(10))),
        (4, [0, 3, 6, 9]),
        (2, [0, 9]),
        (1, [0]),
    ],
)
def test_a_limit_spreads_over_the_dataset(limit: int | None, labels: list[int]) -> None:
    chosen = counting(10).first(limit)
    assert chosen.labels.tolist() == labels
    assert [chosen.load(index)[0, 0, 0] for index in range(len(chosen))] == labels
    assert (chosen.name, chosen.root) == ("counting", "nowhere")


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_an_error(limit: int) -> None:
    with pytest.raises(DatasetError, match="At least one image"):
        counting(10).first(limit)


def test_a_limited_dataset_of_a_limited_one() -> None:
    assert counting(100).first(10).first(2).labels.tolist() == [0, 99]


def test_a_limit_reaches_every_class_of_an_ordered_dataset(reference: Path) -> None:
    dataset = CIFAR.open(reference / "datasets/cifar10-test-head").first(40)
    assert set(dataset.labels.tolist()) == set(range(10))


def test_batches_hold_all_images_in_order() -> None:
    batches = list(counting(7).batches(3))
    assert [len(images) for images, _ in batches] == [3, 3, 1]
    assert np.concatenate([labels for _, labels in batches]).tolist() == list(range(7))
    assert np.concatenate([images for images, _ in batches])[:, 0, 1, 1].tolist() == list(range(7))
    assert batches[0][0].dtype == np.float32


# --- CIFAR-10 -------------------------------------------------------------------------------------


def test_class_folders_hold_the_reference_images(reference: Path) -> None:
    dataset = CIFAR.open(reference / "datasets/cifar10-test-head")
    assert len(dataset) == 761
    with np.load(reference / "datasets/cifar10_test_head.npz") as arrays:
        pixels, labels = arrays["images"], arrays["labels"]
    # Folders are ordered by class; files within are named by their index in the test set.
    files = sorted((reference / "datasets/cifar10-test-head").glob("*/*.png"))
    indices = [int(path.stem) for path in files]
    assert sorted(indices) == list(range(761))
    np.testing.assert_array_equal(dataset.labels, labels[indices])
    np.testing.assert_array_equal(everything(dataset), normalised(pixels[indices]))


@pytest.fixture
def batches_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write 20 images in torchvision's layout, whose digests are taken for the published ones."""
    root = tmp_path / "torchvision"
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = ["airplane", "automobile"]
    batch = {"data": noise(3, 20, 3072), "labels": [index % 10 for index in range(20)]}
    digests = {}
    for name, content in (("test_batch", batch), ("batches.meta", {"label_names": names})):
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        digests[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()  # noqa: S324 - theirs
    cifar = torchvision_datasets.CIFAR10
    monkeypatch.setattr(cifar, "test_list", [["test_batch", digests["test_batch"]]])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": digests["batches.meta"]})
    return root


def test_torchvisions_layout_is_read(batches_folder: Path) -> None:
    dataset = CIFAR.open(batches_folder)
    assert dataset.labels.tolist() == [index % 10 for index in range(20)]
    pixels = noise(3, 20, 3072).reshape(20, 3, 32, 32)
    np.testing.assert_array_equal(everything(dataset), normalised(pixels))


@pytest.mark.parametrize("name", ["test_batch", "batches.meta"])
@pytest.mark.parametrize("damage", ["change", "truncate", "remove"])
def test_a_damaged_batch_is_not_unpickled(batches_folder: Path, name: str, damage: str) -> None:
    path = batches_folder / "cifar-10-batches-py" / name
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "truncate" else content[:-2] + b"0.")
    with pytest.raises(DatasetError, match="missing or damaged") as caught:
        CIFAR.open(batches_folder)
    assert caught.value.where == str(path.parent)


def test_a_batch_that_is_not_the_published_one_is_not_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(DatasetError, match="missing or damaged"):
        CIFAR.open(tmp_path)


def test_classes_that_cifar_does_not_have_are_an_error(tmp_path: Path) -> None:
    save(tmp_path / "data/cat/0.png", noise(0, 32, 32, 3))
    save(tmp_path / "data/zebra/1.png", noise(1, 32, 32, 3))
    with pytest.raises(DatasetError, match="classes that CIFAR-10 does not have") as caught:
        CIFAR.open(tmp_path / "data")
    assert caught.value.got == "zebra"
    assert "airplane" in (caught.value.expected or "")


def test_other_files_in_class_folders_are_no_images(tmp_path: Path) -> None:
    save(tmp_path / "ship/0002.PNG", noise(0, 32, 32, 3))
    save(tmp_path / "cat/0001.png", noise(1, 32, 32, 3))
    (tmp_path / "cat/readme.txt").write_text("not an image")
    (tmp_path / "labels.csv").write_text("neither")
    dataset = CIFAR.open(tmp_path)
    assert dataset.labels.tolist() == [3, 8]
    np.testing.assert_array_equal(
        dataset.load(0), normalised(noise(1, 32, 32, 3).transpose(2, 0, 1))
    )


def test_an_image_of_another_size_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "cat/0.png", noise(0, 28, 30, 3))
    with pytest.raises(DatasetError, match="CIFAR's size") as caught:
        CIFAR.open(tmp_path).load(0)
    assert (caught.value.where, caught.value.got) == (str(path), "30 x 28")


def test_an_image_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "cat/0.png", noise(0, 32, 32, 3))
    content = path.read_bytes()
    for damaged in (b"", b"no image", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match="cannot be read") as caught:
            CIFAR.open(tmp_path).load(0)
        assert caught.value.where == str(path)


# --- where ----------------------------------------------------------------------------------------


def test_data_are_found_in_the_given_folder_and_below(tmp_path: Path) -> None:
    for name in ("", "cifar10/", "cifar-10/", "CIFAR10/"):
        base = tmp_path / f"base{len(name)}{name[:5].replace('/', '')}"
        save(base / f"{name}cat/0.png", noise(0, 32, 32, 3))
        assert Path(CIFAR.open(base).root) == (base / name)


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "named/cifar10/cat/0.png", noise(0, 32, 32, 3))
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "named"))
    assert Path(CIFAR.open(None).root) == tmp_path / "named/cifar10"


def test_data_below_the_current_folder_are_found() -> None:
    save(Path("data/cifar10/cat/0.png"), noise(0, 32, 32, 3))
    assert Path(CIFAR.open(None).root) == Path("data/cifar10")


@pytest.mark.parametrize("kind", [CIFAR, IMAGENET], ids=lambda kind: kind.name)
def test_missing_data_are_an_error_that_lists_the_folders(
    kind: DatasetKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DatasetError, match="were not found") as given:
        kind.open(tmp_path / "given")
    with pytest.raises(DatasetError) as nowhere:
        kind.open(None)
    monkeypatch.setenv(ROOT_VARIABLE, "/not/there")
    with pytest.raises(DatasetError) as named:
        kind.open(None)
    assert str(tmp_path / "given") in (given.value.where or "").split(", ")
    assert "data" in (nowhere.value.where or "").split(", ")
    assert {"/not/there", "data"} <= set((named.value.where or "").split(", "))
    for caught in (given, nowhere, named):
        assert kind.name in (caught.value.where or "")
        assert ROOT_VARIABLE in (caught.value.fix or "")
        assert "--data" in (caught.value.fix or "")


# --- digits ---------------------------------------------------------------------------------------


def test_digits_are_embedded(project: Path) -> None:
    dataset = DIGITS.open(None)
    assert (len(dataset), dataset.root) == (359, "embedded")
    images = everything(dataset)
    assert images.shape == (359, 1, 8, 8)
    assert (images.min(), images.max()) == (0, 1)
    np.testing.assert_array_equal(images * 16, np.rint(images * 16))
    assert set(dataset.labels.tolist()) == set(range(10))
    with np.load(project / "apot_export/datasets/data/digits_test.npz") as arrays:
        np.testing.assert_array_equal(dataset.labels, arrays["labels"])


def test_digits_are_the_test_fold_of_scikit_learns() -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    digits = sklearn.load_digits()
    dataset = DIGITS.open(None)
    np.testing.assert_array_equal(dataset.labels, digits.target[4::5])
    np.testing.assert_array_equal(everything(dataset)[:, 0], digits.images[4::5] / 16)


def test_digits_lie_in_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="read from nowhere else"):
        DIGITS.open(tmp_path)
