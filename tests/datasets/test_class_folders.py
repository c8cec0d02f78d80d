"""Images of one's own: class folders for any network, and the one way to open a dataset for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms

from apot_export.datasets import (
    KINDS,
    NAMES,
    ROOT_VARIABLE,
    Dataset,
    folder_kind,
    kind_by_name,
    kind_of,
    open_dataset,
)
from apot_export.errors import DatasetError


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run where no dataset lies and no variable names one."""
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: NDArray[np.uint8] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(0, 32, 32, 3) if pixels is None else pixels).save(path)
    return path


def opened(data: Path | None, shape: tuple[int, ...] = (3, 32, 32), **options: Any) -> Dataset:
    given: dict[str, Any] = {"classes": 3, **options}
    return open_dataset("folder", input_shape=shape, data=data, **given)


def normalised(
    pixels: NDArray[np.uint8], mean: tuple[float, ...], std: tuple[float, ...]
) -> NDArray[np.float32]:
    """Normalise H W C by hand."""
    m, s = (np.array(values, dtype=np.float32).reshape(-1, 1, 1) for values in (mean, std))
    return np.asarray((pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255) - m) / s)


# --- classes --------------------------------------------------------------------------------------


def test_folders_in_sorted_order_are_the_classes(tmp_path: Path) -> None:
    for name in ("zebra/1", "ant/1", "moth/2", "moth/1"):
        save(tmp_path / f"own/{name}.png")
    dataset = opened(tmp_path / "own")
    assert dataset.labels.tolist() == [0, 1, 1, 2]
    assert list(dataset.names) == ["ant/1.png", "moth/1.png", "moth/2.png", "zebra/1.png"]
    assert list(dataset.classes or ()) == ["ant", "moth", "zebra"]
    assert (dataset.name, dataset.root) == ("folder", str(tmp_path / "own"))


def test_a_class_may_have_no_images(tmp_path: Path) -> None:
    save(tmp_path / "own/zebra/1.png")
    for name in ("ant", "moth"):
        (tmp_path / f"own/{name}").mkdir()
    assert opened(tmp_path / "own").labels.tolist() == [2]


def test_numbers_are_the_classes_of_these_numbers(tmp_path: Path) -> None:
    for name in ("10", "2", "007"):
        save(tmp_path / f"own/{name}/a.png")
    dataset = opened(tmp_path / "own", classes=12)
    assert dict(zip(dataset.names, dataset.labels.tolist(), strict=True)) == {
        "10/a.png": 10,
        "2/a.png": 2,
        "007/a.png": 7,
    }
    assert list(dataset.classes or ()) == [
        "0",
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
        "007",
        "8",
        "9",
        "10",
        "11",
    ]


@pytest.mark.parametrize(
    ("names", "got"),
    [
        (("ant", "moth"), "2: ant, moth"),
        (("a", "b", "c", "d", "e", "f"), "6: a, b, c, d, e, ..."),
        (("1", "2", "3"), "3"),  # one too far: counted from 1
        (("0", "1", "moth", "zebra"), "4: 0, 1, moth, zebra"),
    ],
)
def test_folders_that_do_not_fit_the_classes_are_an_error(
    tmp_path: Path, names: tuple[str, ...], got: str
) -> None:
    for name in names:
        save(tmp_path / f"own/{name}/a.png")
    with pytest.raises(DatasetError, match="do not fit the network's classes") as caught:
        opened(tmp_path / "own")
    assert caught.value.got == got
    assert caught.value.where == str(tmp_path / "own")


def test_no_images_are_an_error_that_says_where(tmp_path: Path) -> None:
    (tmp_path / "own/ant").mkdir(parents=True)
    with pytest.raises(DatasetError, match="were not found") as caught:
        opened(tmp_path / "own")
    assert caught.value.where == str(tmp_path / "own")
    with pytest.raises(DatasetError, match="were not found") as caught:
        opened(None)
    assert caught.value.where == "data"


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        save(tmp_path / f"own/{name}/0.png")
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "own"))
    assert len(opened(None)) == 3


# --- pixels ---------------------------------------------------------------------------------------


def one_image(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    save(folder / "own/0/a.png", pixels)
    return folder / "own"


def test_images_of_the_right_size_are_used_as_they_are(tmp_path: Path) -> None:
    pixels = noise(1, 20, 32, 3)
    dataset = opened(one_image(tmp_path, pixels), (3, 20, 32))
    expected = normalised(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    np.testing.assert_array_equal(dataset.load(0), expected)
    np.testing.assert_array_equal(dataset.picture(dataset.load(0)), pixels)


def test_small_images_of_another_size_are_resized(tmp_path: Path) -> None:
    pixels = noise(1, 50, 40, 3)
    dataset = opened(one_image(tmp_path, pixels), (3, 20, 32))
    resized = np.asarray(transforms.Resize((20, 32))(Image.fromarray(pixels)))
    np.testing.assert_array_equal(dataset.picture(dataset.load(0)), resized)


@pytest.mark.parametrize(
    ("shape", "shorter"), [((64, 64), 73), ((224, 224), 256), ((128, 96), 146), ((96, 160), 183)]
)
def test_large_images_are_resized_and_cropped(
    tmp_path: Path, shape: tuple[int, int], shorter: int
) -> None:
    pixels = noise(1, 90, 120, 3)
    dataset = opened(one_image(tmp_path, pixels), (3, *shape))
    crop = transforms.Compose([transforms.Resize(shorter), transforms.CenterCrop(shape)])
    expected = np.asarray(crop(Image.fromarray(pixels)))
    np.testing.assert_array_equal(dataset.picture(dataset.load(0)), expected)


def test_at_imagenets_size_images_are_preprocessed_as_imagenets(tmp_path: Path) -> None:
    pixels = noise(1, 300, 250, 3)
    path = save(tmp_path / "own/n01440764/a.png", pixels)
    ours = open_dataset("folder", input_shape=(3, 224, 224), classes=1, data=path.parent.parent)
    theirs = kind_by_name("imagenet").open(path.parent.parent)
    np.testing.assert_array_equal(ours.load(0), theirs.load(0))


@pytest.mark.parametrize("size", [28, 64])
def test_networks_of_one_channel_get_grey_images(tmp_path: Path, size: int) -> None:
    pixels = np.full((size, size, 3), (255, 0, 0), dtype=np.uint8)
    dataset = opened(one_image(tmp_path, pixels), (1, size, size))
    grey = np.float32(76) / np.float32(255)  # of pure red, by ITU-R 601: 0.299
    np.testing.assert_array_equal(dataset.load(0), np.full((1, size, size), grey))
    assert dataset.picture(dataset.load(0)).shape == (size, size, 1)
    assert dataset.picture(dataset.load(0)).max() == 76


def test_mean_and_deviation_can_be_given(tmp_path: Path) -> None:
    pixels = noise(1, 32, 32, 3)
    data = one_image(tmp_path, pixels)
    dataset = opened(data, mean=(0.1, 0.2, 0.3), std=[0.4, 0.5, 0.6])
    expected = normalised(pixels, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    np.testing.assert_array_equal(dataset.load(0), expected)
    grey = opened(data, (1, 32, 32), mean=[0.5], std=[0.5])
    assert grey.load(0).min() < 0


@pytest.mark.parametrize(
    ("mean", "std", "what"),
    [
        ((0.5,), None, "belong together"),
        (None, (0.5,), "belong together"),
        ((0.5,), (0.5,), "do not fit"),
        ((0.5,) * 3, (0.5,) * 2, "do not fit"),
        ((0.5,) * 3, (0.5, 0, 0.5), "do not fit"),
        ((0.5,) * 3, (0.5, -1, 0.5), "do not fit"),
        ((0.5, float("nan"), 0.5), (0.5,) * 3, "do not fit"),
        ((0.5,) * 3, (0.5, float("inf"), 0.5), "do not fit"),
    ],
)
def test_mean_and_deviation_are_checked(mean: Any, std: Any, what: str) -> None:
    with pytest.raises(DatasetError, match=what):
        folder_kind((3, 32, 32), 10, mean, std)


@pytest.mark.parametrize("shape", [(2, 32, 32), (4, 32, 32), (10,), (3, 8, 8, 8)])
def test_networks_that_read_no_images_have_no_folder(shape: tuple[int, ...]) -> None:
    with pytest.raises(DatasetError, match="does not read images") as caught:
        kind_of("folder", shape, 10)
    assert caught.value.got == str(list(shape))


# --- opening --------------------------------------------------------------------------------------


def test_the_folder_is_never_chosen_without_its_name(tmp_path: Path) -> None:
    data = one_image(tmp_path, noise(1, 32, 32, 3))
    with pytest.raises(DatasetError, match="cannot be told") as caught:
        open_dataset(None, input_shape=(3, 32, 32), classes=3, data=data)
    assert "folder" in (caught.value.fix or "")
    assert "folder" in NAMES
    assert all(kind.name != "folder" for kind in KINDS)
    with pytest.raises(DatasetError, match="no fixed image shape"):
        kind_by_name("folder")


def test_a_kind_of_the_folder_opens_like_any_other(tmp_path: Path) -> None:
    data = one_image(tmp_path, noise(1, 32, 32, 3))
    kind = kind_of("folder", (3, 32, 32), 3)
    assert (kind.name, kind.input_shape, kind.classes) == ("folder", (3, 32, 32), 3)
    np.testing.assert_array_equal(kind.open(data, "alq-code").load(0), opened(data).load(0))


def test_other_datasets_are_opened_by_name_or_by_shape() -> None:
    for name in ("digits", None):
        dataset = open_dataset(
            name, input_shape=(1, 8, 8), classes=10, data=None, preprocessing="alq-code"
        )
        assert (dataset.name, len(dataset)) == ("digits", 359)


def test_training_codes_normalise_differently(tmp_path: Path) -> None:
    save(tmp_path / "own/cat/0.png")
    alq, apot = (
        open_dataset(
            None, input_shape=(3, 32, 32), classes=10, data=tmp_path / "own", preprocessing=key
        ).load(0)
        for key in ("alq-code", "apot-code")
    )
    assert not np.array_equal(alq, apot)


def test_a_dataset_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(DatasetError, match="does not fit the network"):
        open_dataset("digits", input_shape=(1, 28, 28), classes=10, data=None)
    with pytest.raises(DatasetError, match="no such dataset"):
        open_dataset("svhn", input_shape=(3, 32, 32), classes=10, data=None)


@pytest.mark.parametrize("name", ["digits", None])
@pytest.mark.parametrize("given", [{"mean": (0.5,)}, {"std": (0.5,)}])
def test_other_datasets_have_their_own_mean(name: str | None, given: Any) -> None:
    with pytest.raises(DatasetError, match="dataset folder only") as caught:
        open_dataset(name, input_shape=(1, 8, 8), classes=10, data=None, **given)
    assert caught.value.expected == "the dataset folder"
