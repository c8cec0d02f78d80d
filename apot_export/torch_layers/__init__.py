"""The original semantics in PyTorch: what the training codes compute in evaluation mode.

Written from the published description of each family and held to the original's own outputs by the
tests. It derives its level sets from float sums of powers of two and shares nothing with
`apot_export.encode`, so that `verify` compares two independent derivations.
"""

from __future__ import annotations

from apot_export.torch_layers._layers import (
    FirstConv2d,
    LastLinear,
    QuantConv2d,
    QuantizedLayer,
    dress,
    eight_bit_weight,
)
from apot_export.torch_layers._level_sets import (
    activation_level_set,
    nearest_level,
    weight_level_set,
)

__all__ = [
    "FirstConv2d",
    "LastLinear",
    "QuantConv2d",
    "QuantizedLayer",
    "activation_level_set",
    "dress",
    "eight_bit_weight",
    "nearest_level",
    "weight_level_set",
]
