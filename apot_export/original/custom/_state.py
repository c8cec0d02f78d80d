"""What a network keeps between one forward pass and the next."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from apot_export.errors import ModelError

_SIMPLE = (bool, int, float, str, type(None))
_OTHER_IMAGES = 0.7
"""What the images are multiplied with to be others."""
State = Mapping[str, Any]


def attributes_of(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield all tensors and plain attributes of a module and of its parts by dotted name."""
    for path, part in module.named_modules():
        held = {**vars(part), **part._parameters, **part._buffers}  # noqa: SLF001 - all of them, not those of the state dict
        for name, value in held.items():
            if not name.startswith("_") or isinstance(value, torch.Tensor):
                yield f"{path}.{name}".lstrip("."), value


def state_of(module: nn.Module) -> State:
    """Return parameters, buffers and plain attributes by name; digests of tensors."""
    return {name: _digest(value) for name, value in attributes_of(module)}


def _digest(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        array = np.ascontiguousarray(value.detach().cpu().numpy())
        return ("tensor", array.shape, zlib.crc32(array.tobytes()))
    if isinstance(value, (tuple, list)):
        return tuple(map(_digest, value))
    return value if isinstance(value, _SIMPLE) else None


def require_same_state(
    module: nn.Module,
    before: State,
    results: Sequence[torch.Tensor],
    run: Callable[[float], Sequence[torch.Tensor]],
) -> None:
    """Raise `ModelError` where a forward pass changed what the next one computes.

    Args:
        module: The network, behind a forward pass.
        before: Its state before it.
        results: What it computed.
        run: Runs it again on the images times a factor.
    """
    after = state_of(module)
    if after == before:
        return
    repeats = all(map(torch.equal, results, run(1.0)))
    run(_OTHER_IMAGES)
    others = state_of(module)
    changed = [name for name in after if before.get(name) != after[name]]
    # What is written each time is read by nobody: counters, features that are looked at.
    kept = [name for name in changed if others[name] == after[name] and _has_tensor(after[name])]
    if repeats and not kept:
        return
    raise ModelError(
        "The network's forward pass changes the network.",
        where=type(module).__name__,
        expected="results that depend on nothing but the image",
        got=", ".join(kept if repeats else changed),
        fix="let the forward pass keep nothing in evaluation mode; where it sets something once, "
        "run the network once before converting it",
    )


def _has_tensor(digest: Any) -> bool:
    is_tuple = isinstance(digest, tuple) and bool(digest)
    return is_tuple and (digest[0] == "tensor" or any(map(_has_tensor, digest)))
