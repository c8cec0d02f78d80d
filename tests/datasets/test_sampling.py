"""Samples that keep the classes' shares, what images are called, and how they look to a person."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from apot_export.datasets import Dataset, kind_by_name, kind_of
from apot_export.datasets._normalisation import Normalisation
from apot_export.errors import DatasetError


def labelled(labels: list[int]) -> Dataset:
    """Return a dataset whose image i is filled with i."""
    return Dataset(
        name="labelled",
        root="nowhere",
        labels=np.array(labels, dtype=np.int64),
        load=lambda index: np.full((1, 2, 2), index, dtype=np.float32),
    )


def positions(sample: Dataset) -> list[int]:
    return [int(sample.load(index)[0, 0, 0]) for index in range(len(sample))]


UNBALANCED = [0] * 60 + [1] * 30 + [2] * 7 + [3] * 3


@pytest.mark.parametrize(
    ("limit", "counts"),
    [
        (100, {0: 60, 1: 30, 2: 7, 3: 3}),
        (10, {0: 6, 1: 3, 2: 1}),  # 6, 3, 0.7, 0.3
        (20, {0: 12, 1: 6, 2: 1, 3: 1}),  # 12, 6, 1.4, 0.6
        (90, {0: 54, 1: 27, 2: 6, 3: 3}),  # 54, 27, 6.3, 2.7
        (1, {0: 1}),  # 0.6, 0.3, 0.07, 0.03
    ],
)
def test_every_class_gets_its_share(limit: int, counts: dict[int, int]) -> None:
    for seed in range(5):
        assert Counter(labelled(UNBALANCED).sample(limit, seed).labels.tolist()) == counts


def test_shares_do_not_depend_on_the_order_of_the_dataset() -> None:
    mixed = np.random.default_rng(5).permutation(UNBALANCED).tolist()
    sample = labelled(mixed).sample(20)
    assert Counter(sample.labels.tolist()) == {0: 12, 1: 6, 2: 1, 3: 1}
    assert [mixed[position] for position in positions(sample)] == sample.labels.tolist()


def test_a_seed_says_which_images() -> None:
    dataset = labelled(UNBALANCED)
    assert positions(dataset.sample(20)) == positions(dataset.sample(20, seed=0))
    assert positions(dataset.sample(20, 7)) == positions(dataset.sample(20, 7))
    assert positions(dataset.sample(20, 7)) != positions(dataset.sample(20, 8))


def test_every_image_of_a_class_can_be_chosen() -> None:
    chosen = Counter(
        position for seed in range(400) for position in positions(labelled([0] * 8).sample(2, seed))
    )
    # 100 each are expected, with a standard deviation of 8.7.
    assert set(chosen) == set(range(8))
    assert min(chosen.values()) > 60
    assert max(chosen.values()) < 140


def test_a_sample_smaller_than_the_number_of_classes_is_not_of_the_first_classes() -> None:
    labels = np.repeat(np.arange(1000), 5).tolist()
    sample = labelled(labels).sample(40)
    assert len(set(sample.labels.tolist())) == 40
    assert sample.labels.max() > 500


@given(
    labels=st.lists(st.integers(0, 6), min_size=2, max_size=60),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_samples_are_proportional(labels: list[int], seed: int, data: st.DataObject) -> None:
    limit = data.draw(st.integers(1, len(labels)))
    sample = labelled(labels).sample(limit, seed)
    chosen = positions(sample)
    assert len(chosen) == limit
    assert chosen == sorted(set(chosen))
    assert [labels[position] for position in chosen] == sample.labels.tolist()
    counts = Counter(sample.labels.tolist())
    for label, count in Counter(labels).items():
        assert abs(counts[label] - limit * count / len(labels)) < 1


@pytest.mark.parametrize("limit", [None, 100, 101])
def test_no_limit_is_the_whole_dataset(limit: int | None) -> None:
    dataset = labelled(UNBALANCED)
    assert dataset.sample(limit) is dataset


@pytest.mark.parametrize("limit", [0, -1])
def test_a_sample_of_no_image_is_an_error(limit: int) -> None:
    with pytest.raises(DatasetError, match="At least one image"):
        labelled(UNBALANCED).sample(limit)


# --- what images and classes are called -----------------------------------------------------------


def test_images_without_a_name_are_numbered_also_in_a_sample() -> None:
    dataset = labelled(list(range(20)))
    assert dataset.names[17] == "image 17"
    sample = dataset.sample(5)
    assert list(sample.names) == [f"image {position}" for position in positions(sample)]
    assert list(dataset.first(2).names) == ["image 0", "image 19"]
    assert dataset.classes is None


def test_files_are_called_by_their_path(reference: Path) -> None:
    dataset = kind_by_name("cifar10").open(reference / "datasets/cifar10-test-head")
    assert all((Path(dataset.root) / name).is_file() for name in dataset.names)
    assert dataset.classes is not None
    folders = [name.split("/")[0] for name in dataset.names]
    assert [dataset.classes[label] for label in dataset.labels] == folders


def test_digits_are_classes_of_their_names() -> None:
    assert list(kind_by_name("digits").open(None).classes or ()) == list("0123456789")


def test_mnist_has_names_and_pictures(reference: Path) -> None:
    dataset, other = (
        kind_by_name("mnist").open(reference / "datasets/MNIST", key)
        for key in ("apot-code", "alq-code")
    )
    assert (dataset.names[3], list(dataset.classes or ())) == ("image 3", list("0123456789"))
    picture = dataset.picture(dataset.load(3))
    assert picture.shape == (28, 28, 1)
    assert picture.dtype == np.uint8
    assert not np.array_equal(dataset.load(3), other.load(3))
    np.testing.assert_array_equal(picture, other.picture(other.load(3)))


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "imagenet", "mnist"])
def test_a_picture_undoes_the_normalisation_of_every_value(name: str) -> None:
    kind = kind_by_name(name)
    normalisation = kind.normalisation("apot-code")
    assert normalisation is not None
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(kind.input_shape[0], axis=2)
    np.testing.assert_array_equal(normalisation.picture(normalisation(pixels)), pixels)


def test_a_picture_clips_what_no_screen_shows() -> None:
    pixels = np.array([[[-100, 0, 100]]], dtype=np.float32)
    normalisation = Normalisation(mean=(0.5,), std=(0.5,))
    assert normalisation.picture(pixels).reshape(-1).tolist() == [0, 128, 255]


def test_a_datasets_picture_is_what_a_person_sees(reference: Path) -> None:
    for key in ("apot-code", "alq-code"):
        dataset = kind_by_name("cifar10").open(reference / "datasets/cifar10-test-head", key)
        with Image.open(Path(dataset.root) / dataset.names[11]) as image:
            expected: NDArray[np.uint8] = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(dataset.picture(dataset.load(11)), expected)


def test_digits_have_a_picture() -> None:
    dataset = kind_of("digits", (1, 8, 8), 10).open(None)
    picture = dataset.picture(dataset.load(0))
    assert picture.shape == (8, 8, 1)
    assert picture.dtype == np.uint8
    np.testing.assert_allclose(picture[..., 0], dataset.load(0)[0] * 255, atol=0.5)
