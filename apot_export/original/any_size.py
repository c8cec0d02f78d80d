"""The original for images of another size than its own."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import nn


def with_adaptive_pools(module: nn.Module, names: Iterable[str]) -> nn.Module:
    """Return a copy of a module whose pools of these names average images of any size."""
    copied = copy.deepcopy(module)
    modules = dict(copied.named_modules())
    for name in names:
        if isinstance(modules.get(name), nn.AvgPool2d):
            copied.set_submodule(name, nn.AdaptiveAvgPool2d(1))
    return copied
