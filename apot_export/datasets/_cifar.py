"""CIFAR-10 and CIFAR-100: the test half as published, or images in class folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.datasets._dataset import Dataset, DatasetKind, dataset_of_files
from apot_export.datasets._locating import (
    candidate_roots,
    class_folder_images,
    missing,
    read_image,
)
from apot_export.datasets._normalisation import ALQ_CODE, APOT_CODE, Normalisation
from apot_export.errors import DatasetError

_IMAGE_SHAPE = (32, 32, 3)
_SHOWN_NAMES = 5
_CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
    cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
    lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """The properties in which CIFAR-10 and CIFAR-100 differ."""

    title: str
    folder: str
    """Of the files as published."""
    classes: tuple[str, ...]

    @property
    def batches(self) -> Any:
        """The class that torchvision has for it, of which only the test batch has to be there.

        Its MD5 is checked before reading.
        """
        from torchvision import datasets  # it takes seconds, and facts on the dataset need none

        published = getattr(datasets, self.title.replace("-", ""))
        return type(published.__name__, (published,), {"train_list": []})

    @property
    def name(self) -> str:
        return self.title.lower().replace("-", "")

    def kind(self, alq: Normalisation | None = None) -> DatasetKind:
        """Return the dataset; `alq` is the ALQ code's normalisation where it differs."""
        usual = Normalisation(mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262))
        return DatasetKind(
            name=self.name,
            input_shape=(3, 32, 32),
            classes=len(self.classes),
            opener=self.open,
            names=lambda: self.classes,
            normalisations={APOT_CODE: usual, ALQ_CODE: alq or usual},
        )

    def open(self, data: Path | None, normalisation: Normalisation) -> Dataset:
        """Open the first folder that holds it."""
        folders = (self.name, self.title.lower(), self.title.replace("-", ""))
        roots = candidate_roots(data, folders)
        for root in roots:
            if (root / self.folder).is_dir():
                return self._published(root, normalisation)
            found = class_folder_images(root)
            unknown = [name for name in found if self._label(name) is None]
            if found and not unknown:
                return self._class_folders(root, found, normalisation)
            if found and root == data:
                raise DatasetError(
                    f"The folder holds classes that {self.title} does not have.",
                    where=str(root),
                    expected=", ".join(self.classes[:10]) + (", ..." * (len(self.classes) > 10)),  # noqa: PLR2004 - a line's worth
                    got=", ".join(unknown[:_SHOWN_NAMES]),
                )
        raise missing(
            self.title,
            roots,
            f"{self.folder} (torchvision's layout), "
            f"or folders named after the classes or their numbers",
        )

    def _label(self, folder: str) -> int | None:
        """Return the class that a folder is named after, by name or number."""
        if folder in self.classes:
            return self.classes.index(folder)
        if folder.isascii() and folder.isdecimal() and int(folder) < len(self.classes):
            return int(folder)
        return None

    def _published(self, root: Path, normalisation: Normalisation) -> Dataset:
        try:
            batches = self.batches
            raw = batches(root=str(root), train=False, download=False)
        except RuntimeError as error:
            files = [name for name, _ in batches.test_list] + [batches.meta["filename"]]
            raise DatasetError(
                f"The {self.title} test batch is missing or damaged.",
                where=str(root / self.folder),
                expected=" and ".join(files) + " as published",
                got=str(error).splitlines()[0],
            ) from error
        pixels: NDArray[np.uint8] = raw.data
        return Dataset(
            name=self.name,
            root=str(root),
            labels=np.asarray(raw.targets, dtype=np.int64),
            load=lambda index: normalisation(pixels[index]),
            classes=self.classes,
            picture=normalisation.picture,
        )

    def _class_folders(
        self, root: Path, found: dict[str, list[Path]], normalisation: Normalisation
    ) -> Dataset:
        labelled = [
            (path, label)
            for name, images in found.items()
            if (label := self._label(name)) is not None
            for path in images
        ]
        return dataset_of_files(
            self.name, root, labelled, _read, normalisation=normalisation, classes=self.classes
        )


def _read(path: Path) -> NDArray[np.uint8]:
    pixels = np.asarray(read_image(path), dtype=np.uint8)
    if pixels.shape != _IMAGE_SHAPE:
        raise DatasetError(
            "An image does not have CIFAR's size.",
            where=str(path),
            expected="32 x 32",
            got=f"{pixels.shape[1]} x {pixels.shape[0]}",
        )
    return pixels


CIFAR10 = _Variant(
    title="CIFAR-10", folder="cifar-10-batches-py", classes=tuple(_CIFAR10_CLASSES.split())
).kind(alq=Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)))
CIFAR100 = _Variant(
    title="CIFAR-100", folder="cifar-100-python", classes=tuple(_CIFAR100_CLASSES.split())
).kind()
