"""Load a checkpoint's tensors into a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

from apot_export.errors import RecognitionError

_OPTIONAL_SUFFIXES = ("num_batches_tracked", "factorW", "factorA")
"""Counters and gradient factors of training, which evaluation does not read."""
_SHOWN_KEYS = 6


_MASK, _MASKED = "_mask", "_orig"
"""What PyTorch's pruning adds to the names of a weight's mask and of the weight below it."""


def require_unmasked(keys: Collection[str], expected: Collection[str] = ()) -> None:
    """Raise `RecognitionError` for weights below masks that a network with other keys lacks."""
    names = [key.removesuffix(_MASK) for key in keys if key.endswith(_MASK)]
    masked = [name for name in names if name + _MASKED in keys and name + _MASKED not in expected]
    if masked:
        raise RecognitionError(
            "The checkpoint's weights lie below pruning masks, and the network has none.",
            expected=some_keys(masked, "with the masks applied"),
            got=some_keys([name + _MASK for name in masked], "masks"),
            fix="apply the masks where the pruned network is at hand, and save it again: "
            "torch.nn.utils.prune.remove(layer, 'weight') for each pruned layer",
        )


def load_state(
    module: nn.Module, state: Mapping[str, torch.Tensor], network: str, fix: str
) -> None:
    """Load a state dict's tensors into a module, all of them and no others.

    Args:
        module: The network; one on the meta device takes the tensors themselves, not copies.
        state: Tensors by key.
        network: What the module is, for messages.
        fix: What the user can do where the tensors do not fit.

    Raises:
        RecognitionError: Keys are missing, unknown, or of another shape than the module's.
    """
    expected = module.state_dict()
    require_unmasked(state, expected)
    unknown = [k for k in state if k not in expected and not k.endswith(_OPTIONAL_SUFFIXES)]
    missing = [k for k in expected if k not in state and not k.endswith(_OPTIONAL_SUFFIXES)]
    if unknown or missing:
        raise RecognitionError(
            f"The checkpoint's keys do not fit the network: {network}.",
            expected=some_keys(missing, "and no other key") if missing else "no further key",
            got=some_keys(unknown, "unknown") if unknown else "none of these",
            fix=fix,
        )
    complete = {}
    for key, value in expected.items():
        given = state.get(key)
        if not isinstance(value, torch.Tensor):  # extra state of a module
            given = value if given is None else given
        elif given is None:
            given = torch.zeros_like(value, device="cpu") if value.is_meta else value
        elif given.shape != value.shape:
            if given.numel() != 1 or value.numel() != 1:
                raise RecognitionError(
                    f"A tensor does not have the shape that the network gives it: {network}.",
                    where=key,
                    expected=str(list(value.shape)),
                    got=str(list(given.shape)),
                    fix=fix,
                )
            given = given.reshape(value.shape)
        complete[key] = given
    on_meta = any(value.is_meta for value in module.parameters())
    try:
        module.load_state_dict(complete, assign=on_meta)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise RecognitionError(
            "The network does not take the checkpoint's tensors.",
            where=network,
            got=str(error).splitlines()[0],
        ) from error


def some_keys(keys: Sequence[str], remark: str) -> str:
    """Return the first of some keys and how many more there are, for messages."""
    return f"{some_of(keys, _SHOWN_KEYS) or 'nothing'} ({remark})"


def some_of(keys: Sequence[str], most: int = 4) -> str:
    """Return the first of some keys and how many more there are."""
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
