"""Read the bases that multi-bit checkpoints pickle, without running the code of their classes.

The safe loader fills an empty object's attributes from the pickle. What is in them is checked here
before anything reads it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from apot_export.errors import CheckpointError
from apot_export.network.layers import MultiBitWeights

_STRUCTURES = {
    "kernelwise": False,
    "pixelwise": True,
    "channelwise": False,
    "subchannelwise": False,
}
"""Names of groupings, and whether a group holds the input channels of one kernel position."""
_AXES = 4


class ConvLayerBin:
    """Attributes of a convolution's multi-bit weights."""


class FCLayerBin:
    """Attributes of a linear layer's multi-bit weights."""


PICKLED_BASES: list[Any] = [
    (ConvLayerBin, "binarynet.ConvLayer_bin"),
    (FCLayerBin, "binarynet.FCLayer_bin"),
]
"""What the safe loader may make, and the global that each stands for."""


def multi_bit_weights(entry: object, where: str) -> MultiBitWeights:
    """Read one layer's bases, coordinates and mask.

    Raises:
        CheckpointError: The entry is another object, or its tensors do not fit each other.
    """
    attributes = vars(entry) if isinstance(entry, (ConvLayerBin, FCLayerBin)) else {}
    tensors = {name: attributes.get(name) for name in ("B", "alpha", "mask")}
    structure = attributes.get("structure")
    if structure not in _STRUCTURES or not all(
        isinstance(tensor, torch.Tensor) and tensor.ndim == _AXES for tensor in tensors.values()
    ):
        raise CheckpointError(
            "A layer's multi-bit weights are not what the training code writes.",
            where=where,
            expected="tensors B, alpha and mask of 4 axes, and a structure of "
            + ", ".join(_STRUCTURES),
            got=", ".join(attributes) or type(entry).__name__,
        )
    bases, alpha, mask = (np.asarray(tensor) for tensor in tensors.values())
    column = (*bases.shape[:3], 1)
    types = [array.dtype.name for array in (bases, alpha, mask)]
    if types != ["int8", "float32", "bool"] or alpha.shape != column or mask.shape != column:
        raise CheckpointError(
            "A layer's multi-bit weights do not fit each other.",
            where=where,
            expected="B int8 [out, groups, bits, size]; alpha float32, mask bool [..., 1]",
            got=f"B {bases.dtype} {list(bases.shape)}, alpha {alpha.dtype} {list(alpha.shape)}, "
            f"mask {mask.dtype} {list(mask.shape)}",
        )
    return MultiBitWeights(
        bases=bases,
        coordinates=alpha[..., 0],
        mask=mask[..., 0],
        position_major=_STRUCTURES[structure],
    )
