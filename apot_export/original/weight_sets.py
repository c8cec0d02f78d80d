"""Sets of weights in one checkpoint: those of the training, and averages of them (EMA, SWA)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from apot_export.errors import CheckpointError

STATE_DICT_KEYS = ("state_dict", "model", "net_state_dict")
"""Where training codes put the state dict."""
_WRAPPERS = re.compile(r"^((module|model|ema_model|_orig_mod)\.)+")
"""Prefixes of keys that wrappers of a network add."""


def weight_sets(content: Mapping[Any, Any]) -> dict[str, Mapping[str, torch.Tensor]]:
    """Return every state dict of a checkpoint by its place, as "state_dict" or "ema.shadow"."""
    found = {}
    for key, value in content.items():
        if _is_state_dict(value):
            found[str(key)] = value
        elif isinstance(value, Mapping):
            inner = {f"{key}.{name}": held for name, held in value.items() if _is_state_dict(held)}
            found.update(inner)
    return found


def chosen_weights(
    content: Mapping[Any, Any], weights: str | None, path: Path
) -> Mapping[Any, Any]:
    """Return the state dict of a checkpoint that the user names, else its only one.

    Args:
        content: What the file holds at its top.
        weights: Place of the state dict; None where there is no choice.
        path: The file, for messages.

    Raises:
        CheckpointError: There are several, or none has that name.
    """
    sets = weight_sets(content)
    if weights is not None:
        if weights not in sets:
            raise CheckpointError(
                "The checkpoint has no set of weights of this name.",
                where=str(path),
                expected=listed(sets) or "a file that holds its weights in a dict by name",
                got=f"--weights {weights}",
                fix="name one of these" if sets else "leave out --weights",
            )
        return sets[weights]
    usual = next((key for key in STATE_DICT_KEYS if isinstance(content.get(key), Mapping)), None)
    if usual is None:
        return content
    names = _names(content[usual])
    same = {
        name: held for name, held in sets.items() if 2 * len(names & _names(held)) >= len(names)
    }
    if len(same) > 1:
        raise CheckpointError(
            "The checkpoint holds several sets of weights of one network.",
            where=str(path),
            expected="one, or a word on which is meant",
            got=listed(same),
            fix="say which one was evaluated: " + " or ".join(f"--weights {name}" for name in same),
        )
    held: Mapping[Any, Any] = content[usual]
    return held


def listed(sets: Mapping[str, Mapping[str, torch.Tensor]]) -> str:
    """Return the names of sets of weights with the number of their keys."""
    return ", ".join(f"{name} ({len(held)} keys)" for name, held in sets.items())


def _is_state_dict(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) for key in value)
        and all(isinstance(held, torch.Tensor) for held in value.values())
    )


def _names(state: Mapping[Any, Any]) -> set[str]:
    """Return the keys of a state dict without the prefixes of wrappers."""
    return {_WRAPPERS.sub("", key) for key in state if isinstance(key, str)}
