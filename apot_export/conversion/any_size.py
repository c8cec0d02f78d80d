"""Whether an original computes images of another size as its graph says."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
from torch import nn

from apot_export.encoding.capture import capture
from apot_export.errors import CaptureError, TargetError
from apot_export.network import Node, Shape, SourceNetwork
from apot_export.network.sizes import (
    at_another_size,
    fixed_size,
    of_any_size,
    values_with_size,
    whole_averages,
    with_whole_averages,
)
from apot_export.original.any_size import with_adaptive_pools


def at_any_size(
    module: nn.Module, source: SourceNetwork, quantizers: Mapping[str, Any]
) -> tuple[SourceNetwork, tuple[str, ...]]:
    """Capture a module again with larger images, and compare the graphs.

    Args:
        module: The original.
        source: Its graph at its own size.
        quantizers: As for `capture`.

    Returns:
        The graph, in which averages over the whole image are such averages; and sentences on the
        pools of one size among them.

    Raises:
        TargetError: The graph fixes the size, or the module computes something else at another.
    """
    whole = whole_averages(source)
    channels, height, width = at_another_size(with_whole_averages(source, whole)).input_shape
    size = (channels, height, width)
    try:
        larger = capture(module, size, quantizers)
        # Pools with windows of one size are not of the whole image at another.
        following = whole & whole_averages(larger)
        found = with_whole_averages(source, following)
        _require_same(found, with_whole_averages(larger, following), size)
    except (CaptureError, TargetError) as error:
        fixed = whole & {
            name for name, part in module.named_modules() if isinstance(part, nn.AvgPool2d)
        }
        if not fixed:
            if isinstance(error, TargetError):
                raise
            raise _other_size(error, size) from error
    else:
        # The graph alone tells whether its averages are of the whole image, or this one does.
        return source if of_any_size(source).nodes == found.nodes else found, ()
    try:
        larger = capture(with_adaptive_pools(module, fixed), size, quantizers)
    except CaptureError as error:
        raise _other_size(error, size) from error
    _require_same(of_any_size(source), with_whole_averages(larger, whole), size)
    return source, tuple(
        f"{name} averages the whole image at every size, since the network computes no other "
        "size else"
        for name in sorted(fixed)
    )


def _require_same(wanted: SourceNetwork, larger: SourceNetwork, size: Shape) -> None:
    values_with_size(wanted)
    for node, other in zip_longest(wanted.nodes, larger.nodes):
        if _description(node) != _description(other):
            image = f"an image of {size[1]} x {size[2]}"
            raise fixed_size(node or other, f"{other and other.operation} for {image}")


def _other_size(error: CaptureError, size: Shape) -> TargetError:
    return TargetError(
        "The network does not compute images of another size.",
        where=error.where,
        expected=f"the same operations for an image of {size[1]} x {size[2]}",
        got=error.what,
        fix="leave out --dynamic-size",
    )


def _description(node: Node | None) -> tuple[Any, ...]:
    """Return what a node is, beside the numbers of the training."""
    if node is None:
        return ()
    fields = vars(node.operation).items()
    facts = {name: value for name, value in fields if not isinstance(value, np.ndarray)}
    return node.name, node.inputs, type(node.operation), facts
