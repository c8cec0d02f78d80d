"""Calls of PyTorch in a traced forward pass, and the registry of what they are rewritten to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import fx, nn

from apot_export.errors import CaptureError
from apot_export.original import primitives as p

Traced = Any
"""A tensor of the graph: an `fx.Proxy`, whose operators the type checker does not know."""
Rewriting = Callable[..., Any]
"""Gets a call's arguments as they are, tensors as proxies of known shapes, and returns the proxy of
its result in terms of `primitives`; None where it leaves the call as it is."""
REWRITINGS: dict[Any, Rewriting] = {}
"""By function, or name of method."""


def rewrites(*targets: Any) -> Callable[[Rewriting], Rewriting]:
    def register(rewriting: Rewriting) -> Rewriting:
        REWRITINGS.update(dict.fromkeys(targets, rewriting))
        return rewriting

    return register


def is_tensor(value: object) -> bool:
    """Tell whether a value is a tensor of the graph."""
    return isinstance(value, fx.Proxy) and "shape" in value.node.meta


def shape_of(x: Any) -> tuple[int, ...]:
    """Return a tensor's shape without the batch axis."""
    return tuple(x.shape[1:] if isinstance(x, torch.Tensor) else x.node.meta["shape"])


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Add a call to the graph that its arguments belong to; tensors are computed at once."""
    for argument in arguments:
        if isinstance(argument, fx.Proxy):
            return argument.tracer.create_proxy("call_function", function, arguments, {})
    return function(*arguments)


def kept(function: Callable[..., Any], *arguments: Any, in_place: bool = False) -> Any:
    """Add a primitive that does what the call in progress does, under the call's name."""
    found = call(function, *arguments)
    tracer: Any = found.tracer
    meta, scope = found.node.meta, tracer.scope
    meta["called"] = tracer.called.strip("_")
    if scope.module_type in _NAMED and (function is not p.reshape or len(arguments[1]) == 1):
        meta["module"] = scope.module_path
    meta["in_place"] = in_place or tracer.called.endswith("_") or tracer.called in _IN_PLACE
    return found


_NAMED = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
    nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d,
)  # fmt: skip
"""Modules of one call each, whose values have the module's name."""
_IN_PLACE = ("iadd",)
"""Calls beside those whose name ends in _ that leave their result in their first argument."""


def constant_in(value: Any) -> torch.Tensor | None:
    """Return a parameter or buffer, else None."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, fx.Proxy) and value.node.op == "get_attr":
        return constant_of(cast("Any", value.tracer).root, str(value.node.target)).detach().cpu()
    return None


@contextmanager
def without_tracing() -> Iterator[None]:
    """Use modules as they are while a trace has replaced how they are called and read."""
    call, get = nn.Module.__call__, nn.Module.__getattr__
    nn.Module.__call__, nn.Module.__getattr__ = _CALL, _GET  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__, nn.Module.__getattr__ = call, get  # type: ignore[method-assign]


_CALL, _GET = nn.Module.__call__, nn.Module.__getattr__


def constant_of(root: nn.Module, path: str) -> torch.Tensor:
    """Return the parameter, buffer or other tensor that a network has under a dotted name."""
    found: Any = root
    with without_tracing():
        for name in path.split("."):
            found = getattr(found, name)
    tensor: torch.Tensor = found
    return tensor


def refused(x: fx.Proxy, what: str) -> CaptureError:
    return CaptureError(
        "An operation has no meaning for the exporter in this form.",
        where=None,
        expected="constant numbers, and axes other than the batch's",
        got=f"{what} on an image of shape {list(shape_of(x))}",
    )


def axis_of(x: fx.Proxy, axis: int) -> int:
    rank = len(shape_of(x)) + 1
    found = axis % rank
    if found == 0:
        raise refused(x, "an operation along the batch axis")
    return found


@contextmanager
def eagerly() -> Iterator[None]:
    """Run functions that were compiled with `torch.compile` as they are written."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:
        yield
        return
    nested = dynamo.config.patch(error_on_nested_fx_trace=False)
    with torch.compiler.set_stance("force_eager"), nested:
        yield
