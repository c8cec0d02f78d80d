"""Whether an original computes images of another size as its graph says."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
from torch import nn

from apot_export.encoding.capture import capture
from apot_export.errors import CaptureError, TargetError
from apot_export.network import Node, SourceNetwork
from apot_export.network.sizes import at_another_size, fixed_size, of_any_size, whole_averages
from apot_export.original.any_size import with_whole_averages


def require_any_size(
    module: nn.Module, source: SourceNetwork, quantizers: Mapping[str, Any]
) -> None:
    """Capture a module again with larger images, and compare the graphs.

    Args:
        module: The original.
        source: Its graph at its own size.
        quantizers: As for `capture`.

    Raises:
        TargetError: The graph fixes the size, or the module computes something else at another.
    """
    wanted = of_any_size(source)
    channels, height, width = at_another_size(wanted).input_shape
    size = f"an image of {height} x {width}"
    try:
        larger = capture(
            with_whole_averages(module, whole_averages(source)),
            (channels, height, width),
            quantizers,
        )
    except CaptureError as error:
        raise TargetError(
            "The network does not compute images of another size.",
            where=error.where,
            expected=f"the same operations for {size}",
            got=error.what,
            fix="leave out --dynamic-size",
        ) from error
    for node, other in zip_longest(wanted.nodes, of_any_size(larger).nodes):
        if _description(node) != _description(other):
            raise fixed_size(node or other, f"{other and other.operation} for {size}")


def _description(node: Node | None) -> tuple[Any, ...]:
    """Return what a node is, beside the numbers of the training."""
    if node is None:
        return ()
    fields = vars(node.operation).items()
    facts = {name: value for name, value in fields if not isinstance(value, np.ndarray)}
    return node.name, node.inputs, type(node.operation), facts
