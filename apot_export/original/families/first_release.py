"""The code that the APoT authors published first, in 2019: keys of `apot-v1`, another network."""

from __future__ import annotations

from typing import ClassVar

from apot_export.original.families._thresholds import FirstKeys
from apot_export.original.quantization import FLOAT


class FirstRelease(FirstKeys):
    """APoT weights of 2, 3 and 5 bits, uniform activations, float first and last layers.

    Weights are projected as `apot-v1` does; at 2 bits both round magnitudes.
    """

    name = "first-release"
    same_keys_as = "apot-v1"
    offered: ClassVar = {"apot": (2, 3, 5)}
    offered_activations: ClassVar = {"uniform": (2, 3, 4, 5, 6, 7, 8)}
    trees: ClassVar = {"CIFAR": FLOAT, "ImageNet": FLOAT}
    other_first_last = FLOAT
    summary = "uniform activations, float first and last layer"
