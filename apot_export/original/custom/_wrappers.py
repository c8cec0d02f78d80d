"""What training wraps around a network, or hangs on it, and the network inside."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_INNER = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "AveragedModel": "module",
    "OptimizedModule": "_orig_mod",
    "_FabricModule": "module",
}
"""Attribute that holds the network, by the name of the wrapper's class."""

_WEIGHT_MAKERS = (BasePruningMethod, WeightNorm, SpectralNorm)
"""Hooks of PyTorch that compute a weight from others before each call."""


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the network inside wrappers; wrappers of its parts are gone in a copy that shares all.

    A module without a forward pass, as some training loops define it, is the wrapper of its only
    child that has layers.
    """
    while (inner := _inner(module)) is not None or (inner := _only_child(module)) is not None:
        module = inner
    parts = list(module.modules())
    if not any(_inner(part) is not None or _is_compiled(part) for part in parts):
        return module
    return _without_wrappers(module, {})


def _inner(module: nn.Module) -> nn.Module | None:
    attribute = next((_INNER[k.__name__] for k in type(module).__mro__ if k.__name__ in _INNER), "")
    inner = getattr(module, attribute, None)
    return inner if isinstance(inner, nn.Module) else None


def _only_child(module: nn.Module) -> nn.Module | None:
    layers = (nn.Conv2d, nn.Linear)
    children = [c for c in module.children() if any(isinstance(m, layers) for m in c.modules())]
    has_forward = type(module).forward is not nn.Module.forward or "forward" in vars(module)
    return None if has_forward or len(children) != 1 else children[0]


def _is_compiled(module: nn.Module) -> bool:
    return getattr(module, "_compiled_call_impl", None) is not None


def _without_wrappers(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    while (inner := _inner(module)) is not None:
        module = inner
    if module not in done:
        done[module] = clone = copy.copy(module)
        vars(clone)["_compiled_call_impl"] = None
        vars(clone)["_modules"] = {
            name: None if child is None else _without_wrappers(child, done)
            for name, child in module._modules.items()  # noqa: SLF001 - with those that are None
        }
    return done[module]


def refresh_weights(module: nn.Module) -> None:
    """Compute the weights that pruning masks and norms make before each call."""
    with torch.no_grad():
        for part in module.modules():
            for hook in part._forward_pre_hooks.values():  # noqa: SLF001 - no public list of them
                if isinstance(hook, _WEIGHT_MAKERS):
                    mode, part.training = part.training, False  # in which norms iterate
                    hook(part, None)
                    part.training = mode


def hooks_of(module: nn.Module) -> Iterator[str]:
    """Yield a description of everything beside the classes that may change what a network does."""
    of_all = nn.modules.module
    for kind, shared in (
        ("forward pre-hook", of_all._global_forward_pre_hooks),  # noqa: SLF001 - likewise
        ("forward hook", of_all._global_forward_hooks),  # noqa: SLF001 - likewise
    ):
        for hook in shared.values():
            yield f"{kind} {getattr(hook, '__qualname__', type(hook).__name__)} of all modules"
    for name, part in module.named_modules():
        found = {
            "forward pre-hook": part._forward_pre_hooks.values(),  # noqa: SLF001 - likewise
            "forward hook": part._forward_hooks.values(),  # noqa: SLF001 - likewise
            "replaced forward": [vars(part)["forward"]] if "forward" in vars(part) else [],
        }
        for kind, hooks in found.items():
            for hook in hooks:
                if not isinstance(hook, _WEIGHT_MAKERS):
                    called = getattr(hook, "__qualname__", type(hook).__name__)
                    yield f"{kind} {called} of {name or 'the network'}"


def drop_hooks(module: nn.Module) -> None:
    """Remove all forward hooks from a network, in place."""
    for part in module.modules():
        part._forward_pre_hooks.clear()  # noqa: SLF001 - likewise
        part._forward_hooks.clear()  # noqa: SLF001 - likewise
