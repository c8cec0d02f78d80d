"""The ImageNet validation set in class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision import transforms

from apot_export.datasets._dataset import Dataset, DatasetKind, Normalisation
from apot_export.datasets._folders import (
    candidate_roots,
    class_folder_images,
    missing,
    read_image,
)

_CLASSES = 1000
_NORMALISATION = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_FOLDERS = ("val", "imagenet", "imagenet/val", "imagenet-sample/val", "ILSVRC2012/val")


def _open(data: Path | None, _family: str | None) -> Dataset:
    roots = candidate_roots(data, _FOLDERS)
    for root in roots:
        found = class_folder_images(root)
        if len(found) == _CLASSES:
            return _class_folders(root, found)
    seen = {str(root): len(class_folder_images(root)) for root in roots if root.is_dir()}
    error = missing(
        "ImageNet validation",
        roots,
        "one folder per class, 1000 of them, named by WordNet id (n01440764, ...), with its images",
    )
    if seen:
        error.got = ", ".join(f"{count} class folders in {root}" for root, count in seen.items())
    raise error


def _class_folders(root: Path, found: dict[str, list[Path]]) -> Dataset:
    paths = [path for images in found.values() for path in images]
    labels = [label for label, images in enumerate(found.values()) for _ in images]
    preprocess = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=_NORMALISATION.mean, std=_NORMALISATION.std),
        ]
    )

    def load(index: int) -> NDArray[np.float32]:
        return np.asarray(preprocess(read_image(paths[index])).numpy(), dtype=np.float32)

    return Dataset(name="imagenet", root=str(root), labels=np.array(labels, np.int64), load=load)


IMAGENET = DatasetKind(
    name="imagenet",
    input_shape=(3, 224, 224),
    classes=_CLASSES,
    opener=_open,
    normalisation=lambda _: _NORMALISATION,
)
