"""ALQ multi-bit networks: float activations, weights as sums of scaled sign vectors."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from apot_export.original.families._family import Family
from apot_export.original.quantization import FLOAT, FULL_PRECISION_BITS


class Alq(Family):
    """Checkpoints that hold `parameters_w_bin` beside their state dict."""

    name = "alq"
    offered: ClassVar = {"apot": (FULL_PRECISION_BITS,)}
    trees: ClassVar = dict.fromkeys(("CIFAR", "MNIST", "ImageNet"), FLOAT)
    other_first_last = FLOAT
    has_sign_vectors = True
    preprocessing = "alq-code"

    def recognises(self, keys: Collection[str]) -> bool:
        """Tell whether the bases' key is among a checkpoint's."""
        return "parameters_w_bin" in keys
