"""Datasets with the preprocessing that each family was trained with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torchvision import datasets as torchvision_datasets
from torchvision import transforms

from apot_export.errors import DatasetError

ROOT_VARIABLE = "APOT_EXPORT_DATA"
"""Environment variable that names the folder in which datasets are looked for."""

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_IMAGENET_CLASSES = 1000

Load = Callable[[int], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Labelled images, preprocessed when they are asked for."""

    name: str
    root: str
    """Folder that the images were found in."""
    labels: NDArray[np.int64]
    """[images]"""
    load: Load
    """Returns image i as float32 [channels, height, width]."""

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, limit: int | None) -> Dataset:
        """Return the dataset, or `limit` images spread evenly over it."""
        if limit is None or limit >= len(self):
            return self
        if limit < 1:
            raise DatasetError("At least one image is needed.", got=f"a limit of {limit}")
        chosen = np.linspace(0, len(self) - 1, limit).round().astype(np.int64)
        return Dataset(
            name=self.name,
            root=self.root,
            labels=self.labels[chosen],
            load=lambda index: self.load(int(chosen[index])),
        )

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Yield (images float32 [n, channels, height, width], labels int64 [n])."""
        for start in range(0, len(self), size):
            indices = range(start, min(start + size, len(self)))
            yield np.stack([self.load(i) for i in indices]), self.labels[start : indices.stop]


@dataclass(frozen=True, kw_only=True)
class DatasetKind:
    """A dataset that can be asked for by name."""

    name: str
    input_shape: tuple[int, int, int]
    classes: int
    open: Callable[[Path | None], Dataset]


def kind_by_name(name: str) -> DatasetKind:
    """Return the dataset of a name.

    Raises:
        DatasetError: There is none of this name.
    """
    for kind in KINDS:
        if kind.name == name:
            return kind
    raise DatasetError(
        "There is no such dataset.",
        expected=", ".join(kind.name for kind in KINDS),
        got=name,
        fix="name one of these with --dataset",
    )


def kind_for_network(input_shape: Sequence[int], classes: int) -> DatasetKind:
    """Return the only dataset that fits a network.

    Raises:
        DatasetError: None or several fit.
    """
    fitting = [
        kind for kind in KINDS if kind.input_shape == tuple(input_shape) and kind.classes == classes
    ]
    if len(fitting) != 1:
        raise DatasetError(
            "The dataset cannot be told from the network.",
            expected=", ".join(kind.name for kind in fitting or KINDS),
            got=f"images {list(input_shape)}, {classes} classes",
            fix="name it with --dataset",
        )
    return fitting[0]


# --- where images lie -----------------------------------------------------------------------------


def _candidate_roots(data: Path | None, names: Sequence[str]) -> list[Path]:
    """List the folders in which a dataset may lie: given, named by the environment, or ./data."""
    if data is not None:
        bases = [data]
    else:
        variable = os.environ.get(ROOT_VARIABLE)
        bases = [Path(variable)] if variable else []
        bases.append(Path("data"))
    return [folder for base in bases for folder in (base, *(base / name for name in names))]


def _missing(name: str, searched: Sequence[Path], expected: str) -> DatasetError:
    return DatasetError(
        f"The {name} images were not found.",
        where=", ".join(str(folder) for folder in searched),
        expected=expected,
        fix=f"say where they are with --data FOLDER, or set {ROOT_VARIABLE}",
    )


def _class_folder_images(root: Path) -> dict[str, list[Path]]:
    """Return the images of every class folder, both in sorted order."""
    if not root.is_dir():
        return {}
    return {
        folder.name: images
        for folder in sorted(path for path in root.iterdir() if path.is_dir())
        if (
            images := sorted(
                path for path in folder.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES
            )
        )
    }


def _read_image(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            image: Image.Image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DatasetError(
            "An image cannot be read.", where=str(path), got=str(error), fix="replace or remove it"
        ) from error
    return image


def _normalised(
    pixels: NDArray[np.uint8], mean: NDArray[np.float32], std: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return (pixels / 255 - mean) / std, uint8 [H, W, C] to float32 [C, H, W]."""
    image = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    return np.asarray((image - mean) / std, dtype=np.float32)


def _per_channel(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32).reshape(-1, 1, 1)


# --- CIFAR-10 -------------------------------------------------------------------------------------

_CIFAR10_MEAN = _per_channel(0.491, 0.482, 0.447)
_CIFAR10_STD = _per_channel(0.247, 0.243, 0.262)


class _Cifar10TestHalf(torchvision_datasets.CIFAR10):  # type: ignore[misc]
    """CIFAR-10 of which only the test batch has to be there; its MD5 is checked before reading."""

    train_list: list[Any] = []  # noqa: RUF012 - the base class declares it so


def _open_cifar10(data: Path | None) -> Dataset:
    roots = _candidate_roots(data, ["cifar10", "cifar-10", "CIFAR10"])
    for root in roots:
        if (root / _Cifar10TestHalf.base_folder).is_dir():
            return _cifar10_batches(root)
        found = _class_folder_images(root)
        unknown = [name for name in found if name not in _CIFAR10_CLASSES]
        if found and not unknown:
            return _cifar10_folders(root, found)
        if found and root == data:
            raise DatasetError(
                "The folder holds classes that CIFAR-10 does not have.",
                where=str(root),
                expected=", ".join(_CIFAR10_CLASSES),
                got=", ".join(unknown[:5]),
            )
    raise _missing(
        "CIFAR-10",
        roots,
        f"{_Cifar10TestHalf.base_folder} (torchvision's layout) or folders named after the classes",
    )


def _cifar10_batches(root: Path) -> Dataset:
    try:
        raw = _Cifar10TestHalf(root=str(root), train=False, download=False)
    except RuntimeError as error:
        raise DatasetError(
            "The CIFAR-10 test batch is missing or damaged.",
            where=str(root / _Cifar10TestHalf.base_folder),
            expected="test_batch and batches.meta as published",
            got=str(error).splitlines()[0],
        ) from error
    pixels: NDArray[np.uint8] = raw.data
    return Dataset(
        name="cifar10",
        root=str(root),
        labels=np.asarray(raw.targets, dtype=np.int64),
        load=lambda index: _normalised(pixels[index], _CIFAR10_MEAN, _CIFAR10_STD),
    )


def _cifar10_folders(root: Path, found: dict[str, list[Path]]) -> Dataset:
    paths = [path for images in found.values() for path in images]
    labels = [_CIFAR10_CLASSES.index(name) for name, images in found.items() for _ in images]

    def load(index: int) -> NDArray[np.float32]:
        pixels = np.asarray(_read_image(paths[index]), dtype=np.uint8)
        if pixels.shape != (32, 32, 3):
            raise DatasetError(
                "An image does not have CIFAR's size.",
                where=str(paths[index]),
                expected="32 x 32",
                got=f"{pixels.shape[1]} x {pixels.shape[0]}",
            )
        return _normalised(pixels, _CIFAR10_MEAN, _CIFAR10_STD)

    return Dataset(name="cifar10", root=str(root), labels=np.array(labels, np.int64), load=load)


# --- ImageNet -------------------------------------------------------------------------------------


def _open_imagenet(data: Path | None) -> Dataset:
    names = ["val", "imagenet", "imagenet/val", "imagenet-sample/val", "ILSVRC2012/val"]
    roots = _candidate_roots(data, names)
    for root in roots:
        found = _class_folder_images(root)
        if len(found) == _IMAGENET_CLASSES:
            return _imagenet_folders(root, found)
    seen = {str(root): len(_class_folder_images(root)) for root in roots if root.is_dir()}
    error = _missing(
        "ImageNet validation",
        roots,
        "one folder per class, 1000 of them, named by WordNet id (n01440764, ...), with its images",
    )
    if seen:
        error.got = ", ".join(f"{count} class folders in {root}" for root, count in seen.items())
    raise error


def _imagenet_folders(root: Path, found: dict[str, list[Path]]) -> Dataset:
    paths = [path for images in found.values() for path in images]
    labels = [label for label, images in enumerate(found.values()) for _ in images]
    preprocess = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )

    def load(index: int) -> NDArray[np.float32]:
        return np.asarray(preprocess(_read_image(paths[index])).numpy(), dtype=np.float32)

    return Dataset(name="imagenet", root=str(root), labels=np.array(labels, np.int64), load=load)


# --- digits ---------------------------------------------------------------------------------------


def _open_digits(data: Path | None) -> Dataset:
    """Open the embedded test split of the 8 x 8 digits; pixels 0 to 16 become 0 to 1."""
    if data is not None:
        raise DatasetError(
            "The digits are part of apot-export and are read from nowhere else.",
            got=f"--data {data}",
            fix="leave out --data",
        )
    with resources.files("apot_export").joinpath("data/digits_test.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        images, labels = arrays["images"], arrays["labels"]
    return Dataset(
        name="digits",
        root="embedded",
        labels=labels.astype(np.int64),
        load=lambda index: np.asarray(images[index].astype(np.float32) / np.float32(16)),
    )


KINDS: tuple[DatasetKind, ...] = (
    DatasetKind(name="cifar10", input_shape=(3, 32, 32), classes=10, open=_open_cifar10),
    DatasetKind(name="imagenet", input_shape=(3, 224, 224), classes=1000, open=_open_imagenet),
    DatasetKind(name="digits", input_shape=(1, 8, 8), classes=10, open=_open_digits),
)
