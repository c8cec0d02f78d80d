"""What both oracles do around their operations: check the images, walk the graph, free values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from apot_export.errors import DatasetError


class _Node(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def inputs(self) -> tuple[str, ...]: ...


NodeType = TypeVar("NodeType", bound=_Node)


def require_images(images: NDArray[Any], shape: Sequence[int]) -> None:
    """Raise `DatasetError` unless a batch is [N, channels, height, width] of a shape."""
    if images.ndim != 4 or images.shape[1:] != tuple(shape):  # noqa: PLR2004 - N C H W
        raise DatasetError(
            "The images do not have the network's input shape.",
            expected=f"[N, {', '.join(map(str, shape))}]",
            got=str(list(images.shape)),
        )


def execute(
    nodes: Sequence[NodeType],
    given: dict[str, NDArray[Any]],
    output: str,
    compute: Callable[[NodeType, list[NDArray[Any]]], NDArray[Any]],
    observe: Callable[[str, NDArray[Any]], None] | None,
) -> NDArray[Any]:
    """Compute nodes in order, keeping values only as long as someone reads them.

    Args:
        nodes: In an order in which every input exists before it is used.
        given: Values by name that exist before the first node.
        output: Name of the value to return.
        compute: Computes a node from its inputs.
        observe: Called with the name and array of every value.
    """
    values = dict(given)
    last_use = {name: node.name for node in nodes for name in node.inputs}
    for node in nodes:
        values[node.name] = compute(node, [values[name] for name in node.inputs])
        if observe is not None:
            observe(node.name, values[node.name])
        for name in set(node.inputs):
            if last_use[name] == node.name and name != output:
                del values[name]
    return values[output]
