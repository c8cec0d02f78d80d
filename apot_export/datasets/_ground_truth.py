"""The labels of ILSVRC2012's validation images, in the four formats in which they are kept.

a. `FILENAME LABEL` lines, the label a class index 0 to 999 or a WordNet id (`val.txt` of Caffe);
b. one WordNet id a line, line i for image number i (`imagenet_2012_validation_synset_labels.txt`);
c. one ILSVRC2012 id 1 to 1000 a line, likewise (`ILSVRC2012_validation_ground_truth.txt`);
d. `LOC_val_solution.csv` of Kaggle: `ImageId,PredictionString`, whose first word is a WordNet id.

Networks number the classes from 0, in the order of their WordNet ids. The development kit of
ILSVRC2012 numbers them from 1 in another order (`ILSVRC2012_ID` in its `meta.mat`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from apot_export.errors import DatasetError

CLASSES = 1000
WORDNET_ID = re.compile(r"n\d{8}")

FILES = (
    "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt",
    "synset_labels.txt",
    "ILSVRC2012_validation_ground_truth.txt",
    "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
    "val.txt",
)
"""Names under which the labels are looked for; `val.txt` may be a list of other things, so last."""

FORMATS = (
    'lines "FILENAME LABEL" with a class index 0 to 999 or a WordNet id, one WordNet id per line, '
    "one ILSVRC2012 id per line, or Kaggle's LOC_val_solution.csv"
)

_IMAGES = 50_000
_IMAGE_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})", re.IGNORECASE)
_NAMED_LINES = 'lines "FILENAME LABEL"'
_SHOWN = 3


class Synsets(NamedTuple):
    """Class indices, 0 to 999."""

    by_wordnet_id: dict[str, int]
    by_ilsvrc_id: dict[int, int]
    """Keys are 1 to 1000."""
    names: tuple[str, ...]
    """What torchvision calls each class, by index."""


@cache
def synsets() -> Synsets:
    """Return the indices of ImageNet's classes, from the table that is part of the package."""
    file = resources.files("apot_export.datasets").joinpath("data/imagenet_synsets.txt")
    rows = [line.split(" ", 2) for line in file.read_text(encoding="ascii").splitlines()]
    return Synsets(
        by_wordnet_id={wordnet: index for index, (wordnet, _, _) in enumerate(rows)},
        by_ilsvrc_id={int(number): index for index, (_, number, _) in enumerate(rows)},
        names=tuple(name for _, _, name in rows),
    )


def find(images: Path) -> Path | None:
    """Return the file of labels beside the images, or in the folder that holds theirs."""
    places = (images, images.resolve().parent)
    return next(
        (path for name in FILES for place in places if (path := place / name).is_file()), None
    )


def image_number(stem: str) -> int | None:
    """Return the number in an image's name, from 1; None if it is not named as ILSVRC2012 does."""
    match = _IMAGE_NUMBER.fullmatch(stem)
    return None if match is None else int(match[1])


def labels_of(images: Sequence[Path], path: Path) -> list[int]:
    """Return the class index of every image.

    Args:
        images: Files; their names without suffix identify them.
        path: File of labels, in any of the four formats.

    Raises:
        DatasetError: It is in none of them, contradicts itself, or lacks labels of images.
    """
    find_label = _reader(path)
    labels = {image: find_label(image.stem) for image in images}
    bare = [image.name for image, label in labels.items() if label is None]
    if bare:
        raise DatasetError(
            "Some images have no label.",
            where=str(path),
            expected=f"a label for each of {len(images)} images",
            got=f"none for {len(bare)}: {first_names(bare)}",
            fix="remove these images, or use the file of labels that belongs to them",
        )
    return [label for label in labels.values() if label is not None]


def _reader(path: Path) -> Callable[[str], int | None]:
    """Parse a file of labels; the result returns the label of an image by its name."""
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise _malformed(path, "text", "bytes that are none") from error
    if not lines:
        raise _malformed(path, "a label per image", "an empty file")
    words = len(lines[0].split())
    if "," in lines[0] or words == 2:  # noqa: PLR2004 - a name and a label
        return _by_name(path, lines).get
    if words == 1:
        return _by_line(path, lines)
    raise _malformed(path, FORMATS, f"line 1: {lines[0][:80]}")


def _by_name(path: Path, lines: Sequence[str]) -> Mapping[str, int]:
    """Return labels by image name, of lines "FILENAME LABEL" or of Kaggle's table."""
    kaggle = "," in lines[0]
    expected = "an image's name, and boxes of one WordNet id" if kaggle else _NAMED_LINES
    labels: dict[str, int] = {}
    kinds = set()
    for number, line in enumerate(lines, 1):
        name, words = _kaggle_row(line) if kaggle else _named_row(line)
        if kaggle and number == 1 and name == "ImageId":
            continue
        if len(words) != 1:
            raise _malformed(path, expected, f"line {number}: {line[:80]}")
        kinds.add(WORDNET_ID.fullmatch(words[0]) is not None)
        if len(kinds) > 1:
            raise _malformed(path, "class indices or WordNet ids", "both in one file")
        label = _class_index(path, number, words[0])
        if labels.setdefault(PurePosixPath(name).stem, label) != label:
            raise _malformed(path, "one label per image", f"line {number}: {name} has another one")
    return labels


def _named_row(line: str) -> tuple[str, list[str]]:
    name, *words = line.split() or [""]
    return name, words


def _kaggle_row(line: str) -> tuple[str, list[str]]:
    name, _, boxes = line.partition(",")
    return name, sorted({word for word in boxes.split() if WORDNET_ID.fullmatch(word)})


def _class_index(path: Path, number: int, word: str) -> int:
    if WORDNET_ID.fullmatch(word):
        return _by_wordnet_id(path, number, word)
    if not (word.isascii() and word.isdecimal() and int(word) < CLASSES):
        raise DatasetError(
            "A label is no class of ImageNet.",
            where=f"{path}, line {number}",
            expected=f"0 to {CLASSES - 1}, in the order of the WordNet ids, or a WordNet id",
            got=word[:80],
            fix="numbers that start at 1 count classes or images in another order: "
            "use WordNet ids, or a file in another of the formats",
        )
    return int(word)


def _by_wordnet_id(path: Path, number: int, word: str) -> int:
    index = synsets().by_wordnet_id.get(word)
    if index is None:
        raise DatasetError(
            "A WordNet id is none of ImageNet's 1000 classes.",
            where=f"{path}, line {number}",
            got=word,
        )
    return index


def _by_line(path: Path, lines: Sequence[str]) -> Callable[[str], int | None]:
    """Return the label of an image by its number: that of the line with this number."""
    if len(lines) > _IMAGES:
        raise _malformed(path, f"at most {_IMAGES} lines, one per image", f"{len(lines)}")
    words = [line.strip() for line in lines]
    wordnet = WORDNET_ID.fullmatch(words[0]) is not None
    labels = [_line_label(path, number, word, wordnet) for number, word in enumerate(words, 1)]

    def find_label(stem: str) -> int | None:
        number = image_number(stem)
        if number is None:
            raise DatasetError(
                "An image has no number, but the labels are told apart by number only.",
                where=str(path),
                expected="names like ILSVRC2012_val_00000001.JPEG",
                got=stem,
                fix=f"use a file with {_NAMED_LINES}",
            )
        if not 1 <= number <= len(labels):
            raise DatasetError(
                "The file of labels does not reach all images.",
                where=str(path),
                expected=f"a line {number}, for {stem}",
                got=f"{len(labels)} lines",
                fix="use the complete file: line i is the label of image number i",
            )
        return labels[number - 1]

    return find_label


def _line_label(path: Path, number: int, word: str, wordnet: bool) -> int:
    if wordnet and WORDNET_ID.fullmatch(word):
        return _by_wordnet_id(path, number, word)
    if not wordnet and word.isascii() and word.isdecimal():
        index = synsets().by_ilsvrc_id.get(int(word))
        if index is not None:
            return index
    expected = "a WordNet id" if wordnet else f"an ILSVRC2012 id, 1 to {CLASSES}"
    raise _malformed(path, f"{expected} in every line", f"line {number}: {word[:80] or 'nothing'}")


def _malformed(path: Path, expected: str, got: str) -> DatasetError:
    return DatasetError(
        "A file of labels cannot be understood.",
        where=str(path),
        expected=expected,
        got=got,
        fix=f"the labels must be in one of these formats: {FORMATS}",
    )


def first_names(names: Sequence[str]) -> str:
    """Return the first three names, for an error message."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
