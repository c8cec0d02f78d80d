"""ImageNet: class folders of WordNet ids, or one folder whose labels are kept in four formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import datasets as torchvision_datasets
from torchvision import transforms

from apot_export.datasets import ROOT_VARIABLE, Dataset, _ground_truth, kind_by_name
from apot_export.datasets._ground_truth import synsets
from apot_export.datasets._imagenet import NORMALISATION
from apot_export.errors import DatasetError

IMAGENET = kind_by_name("imagenet")
THEIRS = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run where no dataset lies and no variable names one."""
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, 20, 24, 3)).save(path)
    return path


# --- the table of classes -------------------------------------------------------------------------


def test_the_classes_are_those_of_the_reference_images(reference: Path) -> None:
    folders = sorted(p.name for p in (reference / "datasets/imagenet-sample/val").iterdir())
    assert list(synsets().by_wordnet_id) == folders
    assert list(synsets().by_wordnet_id.values()) == list(range(1000))


def test_the_ids_of_the_development_kit_are_a_permutation() -> None:
    assert sorted(synsets().by_ilsvrc_id) == list(range(1, 1001))
    assert sorted(synsets().by_ilsvrc_id.values()) == list(range(1000))


def test_the_first_validation_images_have_the_labels_that_others_publish() -> None:
    # The development kit's first ten ids, and Caffe's labels of the same images.
    ids = [490, 361, 171, 822, 297, 482, 13, 704, 599, 164]
    labels = [65, 970, 230, 809, 516, 57, 334, 415, 674, 332]
    assert [synsets().by_ilsvrc_id[number] for number in ids] == labels


# --- class folders --------------------------------------------------------------------------------


def test_photographs_are_preprocessed_as_torchvision_does(reference: Path) -> None:
    root = reference / "datasets/imagenet-sample"
    dataset = IMAGENET.open(root)
    assert len(dataset) == 1000
    assert dataset.labels.tolist() == list(range(1000))
    assert Path(dataset.root) == root / "val"
    theirs = torchvision_datasets.ImageFolder(str(root / "val"), THEIRS)
    for index in (0, 1, 250, 617, 999):
        image, label = theirs[index]
        assert isinstance(image, torch.Tensor)
        assert dataset.load(index).dtype == np.float32
        np.testing.assert_array_equal(dataset.load(index), image.numpy())
        assert dataset.labels[index] == label


def test_channels_come_first_in_memory_too(reference: Path) -> None:
    # PyTorch would take another order for "channels last", and compute with other algorithms.
    for name, folder in (("imagenet", "imagenet-sample"), ("cifar10", "cifar10-test-head")):
        dataset = kind_by_name(name).open(reference / "datasets" / folder).first(3)
        (batch,) = dataset.prefetched([range(3)], 1)
        (images, _) = next(dataset.batches(3))
        assert all(array.flags.c_contiguous for array in (dataset.load(0), batch.images, images))


def test_every_value_of_a_pixel_is_normalised_as_torchvision_does() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    normalise = transforms.Compose(THEIRS.transforms[2:])
    theirs = normalise(Image.fromarray(pixels)).numpy()
    np.testing.assert_array_equal(NORMALISATION(pixels).view(np.uint32), theirs.view(np.uint32))


def test_a_subset_has_the_labels_of_its_wordnet_ids(tmp_path: Path) -> None:
    for seed, name in enumerate(["n03888257", "n01440764", "n02102040"]):
        save(tmp_path / f"val/{name}/{seed}.JPEG", seed)
    dataset = IMAGENET.open(tmp_path)
    assert dataset.labels.tolist() == [0, 217, 701]
    assert list(dataset.names) == ["n01440764/1.JPEG", "n02102040/2.JPEG", "n03888257/0.JPEG"]
    assert dataset.classes is not None
    shown = [dataset.classes[label] for label in dataset.labels]
    assert shown == ["tench", "English springer", "parachute"]
    assert len(dataset.classes) == 1000


def test_a_picture_is_the_crop_that_the_network_sees(tmp_path: Path) -> None:
    path = save(tmp_path / "n01440764/0.png")
    dataset = IMAGENET.open(tmp_path)
    with Image.open(path) as image:
        crop = transforms.CenterCrop(224)(transforms.Resize(256)(image))
        np.testing.assert_array_equal(dataset.picture(dataset.load(0)), np.asarray(crop))


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK"])
def test_photographs_of_other_colours_are_converted(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "n01440764/0.webp"
    path.parent.mkdir()
    picture = Image.fromarray(noise(0, 260, 300, 3)).convert(mode)
    picture.save(path, format="JPEG" if mode != "RGBA" else "PNG")
    image = IMAGENET.open(tmp_path).load(0)
    assert image.shape == (3, 224, 224)


def test_hidden_files_and_folders_are_no_images(tmp_path: Path) -> None:
    save(tmp_path / "n01440764/0.png")
    save(tmp_path / "n01440764/._0.png")
    save(tmp_path / ".ipynb_checkpoints/0.png")
    assert list(IMAGENET.open(tmp_path).names) == ["n01440764/0.png"]


def test_ids_that_imagenet_does_not_have_are_an_error(tmp_path: Path) -> None:
    for name in ("n01440764", "n00000001", "n00000002"):
        save(tmp_path / name / "0.png")
    with pytest.raises(DatasetError, match="none of ImageNet's 1000 classes") as caught:
        IMAGENET.open(tmp_path)
    assert caught.value.got == "2 of 3: n00000001, n00000002"


@pytest.mark.parametrize("other", ["parachute/0.png", "ILSVRC2012_val_00000001.png", "a.png"])
def test_class_folders_mixed_with_other_images_are_an_error(tmp_path: Path, other: str) -> None:
    save(tmp_path / "n01440764/0.png")
    save(tmp_path / other)
    with pytest.raises(DatasetError, match="mixes class folders") as caught:
        IMAGENET.open(tmp_path)
    assert other.removesuffix("/0.png") in (caught.value.got or "")


def test_folders_of_other_names_are_no_imagenet(tmp_path: Path) -> None:
    for name in ("0", "1"):
        save(tmp_path / f"val/{name}/0.png")
    with pytest.raises(DatasetError, match="were not found") as caught:
        IMAGENET.open(tmp_path)
    assert f"{tmp_path / 'val'} has 2 folders of images" in (caught.value.got or "")


def test_a_newcomer_is_told_what_to_do() -> None:
    with pytest.raises(DatasetError, match="ImageNet validation images were not found") as caught:
        IMAGENET.open(None)
    searched = (caught.value.where or "").split(", ")
    assert {"data", "data/val", "data/imagenet/val", "data/ILSVRC2012/val"} <= set(searched)
    assert caught.value.got == "none of these folders exists"
    fix = caught.value.fix or ""
    for word in ("--data", ROOT_VARIABLE, "n01440764", "ILSVRC2012_val_00000001.JPEG", "image-net"):
        assert word in fix
    assert all(name in fix for name in _ground_truth.FILES)


# --- one folder and a file of labels --------------------------------------------------------------


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Write images 1, 2 and 5 of ILSVRC2012, which are 65, 970 and 516."""
    for number in (5, 1, 2):
        save(tmp_path / f"set/val/ILSVRC2012_val_{number:08d}.JPEG", number)
    return tmp_path / "set/val"


LABELS = {
    "val.txt, index": (
        "val.txt",
        "ILSVRC2012_val_00000002.JPEG 970\nILSVRC2012_val_00000001.JPEG 65\n"
        "ILSVRC2012_val_00000003.JPEG 230\nILSVRC2012_val_00000005.JPEG 516\n",
    ),
    "val.txt, WordNet id": (
        "val.txt",
        "val/ILSVRC2012_val_00000001.JPEG n01751748\r\nval/ILSVRC2012_val_00000002.JPEG n09193705"
        "\r\nval/ILSVRC2012_val_00000005.JPEG n03125729\r\n",
    ),
    "WordNet ids": (
        "imagenet_2012_validation_synset_labels.txt",
        "n01751748\nn09193705\nn02105855\nn04263257\nn03125729\nn01735189\n",
    ),
    "ILSVRC ids": ("ILSVRC2012_validation_ground_truth.txt", "490\n361\n171\n822\n297\n"),
    "development kit": (
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
        "490\n361\n171\n822\n297\n482\n13",
    ),
    "Kaggle": (
        "LOC_val_solution.csv",
        "ImageId,PredictionString\n"
        "ILSVRC2012_val_00000005,n03125729 1 2 3 4 n03125729 5 6 7 8 \n"
        "ILSVRC2012_val_00000001,n01751748 111 108 441 193 \n"
        "ILSVRC2012_val_00000002,n09193705 0 0 1 1\n",
    ),
}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("place", ["beside", "parent"])
@pytest.mark.parametrize(("name", "text"), LABELS.values(), ids=LABELS)
def test_labels_are_read_in_every_format(flat: Path, name: str, text: str, place: str) -> None:
    write((flat if place == "beside" else flat.parent) / name, text)
    dataset: Dataset = IMAGENET.open(flat)
    assert dataset.labels.tolist() == [65, 970, 516]
    assert list(dataset.names) == [f"ILSVRC2012_val_0000000{number}.JPEG" for number in (1, 2, 5)]
    assert dataset.load(2).shape == (3, 224, 224)


def test_the_folder_may_be_given_relatively(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(flat.parent / "val.txt", LABELS["val.txt, index"][1])
    monkeypatch.chdir(flat)
    assert IMAGENET.open(Path()).labels.tolist() == [65, 970, 516]


def test_missing_labels_are_an_error_that_says_where_to_put_them(flat: Path) -> None:
    with pytest.raises(DatasetError, match="but not their labels") as caught:
        IMAGENET.open(flat)
    assert caught.value.where == f"{flat}, {flat.parent.resolve()}"
    assert "LOC_val_solution.csv" in (caught.value.expected or "")


def test_the_file_that_can_only_be_labels_is_preferred(flat: Path) -> None:
    write(flat / "val.txt", "ILSVRC2012_val_00000001 1\n")
    write(flat.parent / "ILSVRC2012_validation_ground_truth.txt", LABELS["ILSVRC ids"][1])
    assert IMAGENET.open(flat).labels.tolist() == [65, 970, 516]


NAMED = "ILSVRC2012_val_0000000"
WRONG = {
    "an image without label": ("val.txt", f"{NAMED}1.JPEG 65\n", "have no label", "none for 2"),
    "1000": ("val.txt", f"{NAMED}1.JPEG 1000\n", "no class of ImageNet", "1000"),
    "negative": ("val.txt", f"{NAMED}1.JPEG -1\n", "no class of ImageNet", "-1"),
    "unknown id": ("val.txt", f"{NAMED}1.JPEG n00000001\n", "WordNet id is none", "n00000001"),
    "three words": ("val.txt", f"{NAMED}1.JPEG 65 6\n", "cannot be understood", "line 1"),
    "later words": ("val.txt", f"{NAMED}1.JPEG 65\nx\n", "cannot be understood", "line 2: x"),
    "both": ("val.txt", f"{NAMED}1 65\n{NAMED}2 n09193705", "cannot be understood", "both"),
    "twice": ("val.txt", f"{NAMED}1.JPEG 65\n{NAMED}1.JPEG 66\n", "understood", "another one"),
    "empty": ("val.txt", "\n\n", "cannot be understood", "an empty file"),
    "too few": ("synset_labels.txt", "n01751748\nn09193705\n", "does not reach", "2 lines"),
    "too many": ("synset_labels.txt", "n01751748\n" * 50_001, "cannot be understood", "50001"),
    "unknown in line": ("synset_labels.txt", "n01751748\nn00000001\n", "none of", "n00000001"),
    "gap": ("synset_labels.txt", "n01751748\n\nn09193705\n", "understood", "line 2: nothing"),
    "mixed": ("synset_labels.txt", "490\nn09193705\n", "understood", "line 2: n09193705"),
    "mixed ids": ("synset_labels.txt", "n09193705\n490\n", "understood", "line 2: 490"),
    "id 0": ("ILSVRC2012_validation_ground_truth.txt", "490\n0\n", "understood", "line 2: 0"),
    "id 1001": ("ILSVRC2012_validation_ground_truth.txt", "1001\n", "understood", "line 1: 1001"),
    "no box": ("LOC_val_solution.csv", f"{NAMED}1,\n", "understood", "line 1"),
    "two classes": ("LOC_val_solution.csv", f"{NAMED}1,n01751748 n09193705\n", "understood", "1"),
    "unknown in Kaggle's": (
        "LOC_val_solution.csv",
        "a,n00000001 1 2 3 4\n",
        "none of",
        "n00000001",
    ),
}


@pytest.mark.parametrize(("name", "text", "what", "got"), WRONG.values(), ids=WRONG)
def test_wrong_labels_are_errors(flat: Path, name: str, text: str, what: str, got: str) -> None:
    path = write(flat / name, text)
    with pytest.raises(DatasetError, match=what) as caught:
        IMAGENET.open(flat)
    assert (caught.value.where or "").startswith(str(path))
    assert got in (caught.value.got or "")


def test_labels_that_are_no_text_are_an_error(flat: Path) -> None:
    (flat / "val.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DatasetError, match="cannot be understood"):
        IMAGENET.open(flat)


def test_a_number_of_lines_needs_numbers_in_names(flat: Path) -> None:
    save(flat / "holiday.jpg")
    write(flat / "synset_labels.txt", LABELS["WordNet ids"][1])
    with pytest.raises(DatasetError, match="has no number") as caught:
        IMAGENET.open(flat)
    assert caught.value.got == "holiday"
