"""ImageNet's 1000 classes: WordNet ids, and the two ways of numbering them.

Networks number the classes in the order of their WordNet ids, from 0. The development kit of
ILSVRC2012 has numbers of its own, from 1 (`ILSVRC2012_ID` in its `meta.mat`), and states the
ground truth in these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType

CLASSES = 1000
WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True, kw_only=True)
class Synsets:
    """Class indices, 0 to 999."""

    by_wordnet_id: Mapping[str, int]
    by_ilsvrc_id: Mapping[int, int]
    """Keys are 1 to 1000."""


@cache
def synsets() -> Synsets:
    """Return the table that is part of the package: per class its WordNet and ILSVRC2012 id."""
    file = resources.files("apot_export.datasets").joinpath("data/imagenet_synsets.txt")
    rows = [line.split() for line in file.read_text(encoding="ascii").splitlines()]
    return Synsets(
        by_wordnet_id=MappingProxyType({row[0]: index for index, row in enumerate(rows)}),
        by_ilsvrc_id=MappingProxyType({int(row[1]): index for index, row in enumerate(rows)}),
    )
