"""APoT until May 2020: thresholds `weight_quant.wgt_alpha` and `act_alpha` per convolution."""

from __future__ import annotations

from typing import ClassVar

from apot_export.original.families._thresholds import FirstKeys
from apot_export.original.quantization import EIGHT_BIT, FLOAT


class ApotV1(FirstKeys):
    """The CIFAR-10 code, and the ImageNet code before May 2020."""

    name = "apot-v1"
    trees: ClassVar = {"CIFAR": EIGHT_BIT, "ImageNet": FLOAT}
    summary = "activations on the weights' level set, 8-bit first and last layer on CIFAR"
