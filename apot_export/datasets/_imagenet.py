"""The ImageNet validation set: in class folders, or in one folder with a file of labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apot_export.datasets import _ground_truth
from apot_export.datasets._dataset import Dataset, DatasetKind, dataset_of_files
from apot_export.datasets._ground_truth import CLASSES, WORDNET_ID, first_names, synsets
from apot_export.datasets._locating import (
    ROOT_VARIABLE,
    candidate_roots,
    class_folder_images,
    images_in,
    missing,
    read_image,
)
from apot_export.datasets._normalisation import APOT_CODE, Normalisation
from apot_export.errors import DatasetError

NORMALISATION = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_RESIZED, _SIZE = 256, 224
_FOLDERS = ("val", "imagenet", "imagenet/val", "imagenet-sample/val", "ILSVRC2012/val")
_HOW = f"""give the folder with --data FOLDER, or set {ROOT_VARIABLE} to it; it is searched as it \
is, and in {", ".join(_FOLDERS)} below it. Either of these is accepted:
one folder per class, named by WordNet id: n01440764/*.JPEG, n01443537/*.JPEG, ... \
(any number of the 1000 classes)
all images in one folder, ILSVRC2012_val_00000001.JPEG, ..., with their labels there or one folder \
up in {", ".join(_ground_truth.FILES[:-1])} or {_ground_truth.FILES[-1]}
These are the validation images of ILSVRC2012; image-net.org gives them to those who register."""


def _open(data: Path | None, _: Normalisation) -> Dataset:
    roots = candidate_roots(data, _FOLDERS)
    for root in roots:
        folders = class_folder_images(root)
        named = [name for name in folders if WORDNET_ID.fullmatch(name)]
        flat = images_in(root)
        numbered = any(_ground_truth.image_number(path.stem) is not None for path in flat)
        if named or numbered:
            _check_unmixed(root, named, [name for name in folders if name not in named], flat)
            return _class_folders(root, folders) if named else _flat(root, flat)
    raise _not_found(roots)


def _not_found(roots: Sequence[Path]) -> DatasetError:
    error = missing(
        "ImageNet validation",
        roots,
        "class folders named by WordNet id, or ILSVRC2012_val_*.JPEG with a file of labels",
    )
    there = [root for root in roots if root.is_dir()]
    error.got = (
        "; ".join(
            f"{root} has {len(class_folder_images(root))} folders of images, none named by WordNet "
            f"id, and {len(images_in(root))} images, none named like ILSVRC2012's"
            for root in there
        )
        or "none of these folders exists"
    )
    error.fix = _HOW
    return error


def _check_unmixed(root: Path, named: list[str], others: list[str], flat: list[Path]) -> None:
    known = synsets().by_wordnet_id
    unknown = [name for name in named if name not in known]
    if unknown:
        raise DatasetError(
            "Class folders are named by WordNet ids that are none of ImageNet's 1000 classes.",
            where=str(root),
            got=f"{len(unknown)} of {len(named)}: {first_names(unknown)}",
            fix="remove these folders; the network was not trained on such images",
        )
    mixed = first_names([*others, *(path.name for path in flat)])
    if named and mixed:
        raise DatasetError(
            "The folder mixes class folders with other images, whose labels are not known.",
            where=str(root),
            expected="folders named by WordNet id only, or images named like ILSVRC2012's only",
            got=f"{len(named)} class folders, and {mixed}",
            fix="move the other images away",
        )


def _class_folders(root: Path, folders: dict[str, list[Path]]) -> Dataset:
    labels = synsets().by_wordnet_id
    return _dataset(
        root, [(path, labels[name]) for name, images in folders.items() for path in images]
    )


def _flat(root: Path, paths: list[Path]) -> Dataset:
    found = _ground_truth.find(root)
    if found is None:
        raise DatasetError(
            "ILSVRC2012's images are there, but not their labels.",
            where=", ".join(str(place) for place in (root, root.resolve().parent)),
            expected=f"one of {', '.join(_ground_truth.FILES)}",
            got=f"{len(paths)} images and none of these files",
            fix=f"put the labels there, in one of these formats: {_ground_truth.FORMATS}",
        )
    return _dataset(root, list(zip(paths, _ground_truth.labels_of(paths, found), strict=True)))


def _dataset(root: Path, labelled: Sequence[tuple[Path, int]]) -> Dataset:
    from torchvision import transforms  # it takes seconds, and facts on the dataset need none

    crop = transforms.Compose([transforms.Resize(_RESIZED), transforms.CenterCrop(_SIZE)])

    def read(path: Path) -> NDArray[np.uint8]:
        return np.asarray(crop(read_image(path)), dtype=np.uint8)

    return dataset_of_files(
        "imagenet", root, labelled, read, normalisation=NORMALISATION, classes=synsets().names
    )


IMAGENET = DatasetKind(
    name="imagenet",
    input_shape=(3, _SIZE, _SIZE),
    classes=CLASSES,
    opener=_open,
    names=lambda: synsets().names,
    resized=_RESIZED,
    normalisations={APOT_CODE: NORMALISATION},
)
