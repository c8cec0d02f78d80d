"""Functions and tensor methods that a forward pass may call, by what they do.

Capture turns these calls into operations, and verification bounds their rounding: both read the
tables here, so that whatever is converted can be verified.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
CLIPS = (torch.clamp, torch.clip, "clamp", "clip", "clamp_", "clip_")
MEANS = (torch.mean, "mean")
RESHAPES = (
    torch.reshape, torch.flatten, torch.squeeze, torch.unsqueeze, torch.unflatten,
    "reshape", "view", "flatten", "squeeze", "unsqueeze", "unflatten", "view_as", "reshape_as",
)  # fmt: skip
"""Calls whose result is their input's numbers, image by image, in the shape of the result."""
IDENTITIES = ("contiguous", "detach", "clone", "float", "cpu", "to")
"""Methods that change no number of a float32 tensor."""

_POOL = ("kernel_size", "stride", "padding")
_RESIZE = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")
_DROPOUT = ("p", "training", "inplace")
MODULES: Mapping[Any, tuple[type[nn.Module], tuple[str, ...], Mapping[str, Any]]] = {
    torch.relu: (nn.ReLU, (), {}),
    "relu": (nn.ReLU, (), {}),
    "relu_": (nn.ReLU, (), {"inplace": True}),
    functional.relu: (nn.ReLU, ("inplace",), {}),
    functional.relu6: (nn.ReLU6, ("inplace",), {}),
    functional.hardtanh: (nn.Hardtanh, ("min_val", "max_val", "inplace"), {}),
    functional.max_pool2d: (
        nn.MaxPool2d,
        (*_POOL, "dilation", "ceil_mode", "return_indices"),
        {},
    ),
    functional.avg_pool2d: (
        nn.AvgPool2d,
        (*_POOL, "ceil_mode", "count_include_pad", "divisor_override"),
        {},
    ),
    functional.adaptive_avg_pool2d: (nn.AdaptiveAvgPool2d, ("output_size",), {}),
    functional.interpolate: (nn.Upsample, _RESIZE, {}),
    functional.dropout: (nn.Dropout, _DROPOUT, {"training": True}),
    functional.dropout2d: (nn.Dropout2d, _DROPOUT, {"training": True}),
}
"""Functions that are a module's forward pass: the module, names of the arguments after the tensor,
and their defaults where the module has others."""
