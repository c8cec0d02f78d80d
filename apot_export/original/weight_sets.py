"""Sets of weights in one checkpoint, and the names of their tensors without what wrappers add."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from apot_export.errors import CheckpointError
from apot_export.original._data import StandIn

TOP = "."
"""Place of the weights of a file that is a state dict itself."""
USUAL_PLACES = ("state_dict", "model", "net_state_dict", TOP)
"""Where training codes put the weights of the network itself."""
_DEEPEST = 4
"""Levels of dicts and lists that are looked through."""
_LONGEST_NAME = 200
"""Characters of a key where weights are looked for: nobody would name a longer one."""
_OPTIMIZERS = "optim"
_SHOWN_KEYS = 8
_MOST_FORMS = 32
"""Heads of keys that are cut, one after the other."""
_WRAPPERS = re.compile(
    r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""Parts of keys that DataParallel, torch.compile and their like add, wherever they stand."""
_HOLDERS = ("model", "net", "network")
"""Names that training loops give to the network, where a loss or a teacher stands beside it."""
_STRAY = re.compile(
    r"(^|.*\.)(n_averaged|total_ops|total_params|weight_q|weight_quantized|quantized_weight"
    r"|_extra_state)"
)
"""Counters of averages and of operations, and copies of weights that are computed anew."""


def weight_sets(content: object) -> dict[str, Mapping[Any, Any]]:
    """Return every mapping that holds weights in a checkpoint by its place, as "ema.shadow"."""
    found: dict[str, Mapping[Any, Any]] = {}
    seen: set[int] = set()

    def look(value: object, place: str, depth: int) -> None:
        children: Iterator[tuple[Any, Any]]
        if isinstance(value, dict):
            if any(_is_weight(key, held) for key, held in value.items()):
                found[place or TOP] = value
            children = iter(value.items())
        elif isinstance(value, (list, tuple)):
            children = enumerate(value)
        else:
            return
        if depth == _DEEPEST or id(value) in seen:
            return
        seen.add(id(value))
        for key, held in children:
            name = str(key)
            # What an optimizer keeps for every weight has the weight's name at times.
            if len(name) <= _LONGEST_NAME and not name.startswith(_OPTIMIZERS):
                look(held, f"{place}.{name}" if place else name, depth + 1)

    look(content, "", 0)
    return found


def _is_weight(key: object, value: object) -> bool:
    is_named = isinstance(key, str) and key.rpartition(".")[2] == "weight"
    return is_named and is_tensor(value)


def is_tensor(value: object) -> bool:
    """Tell whether a value is a tensor or an array, or one of a kind that cannot be read."""
    kinds = ("torch._utils._rebuild_", "numpy.core.", "numpy._core.")
    return isinstance(value, torch.Tensor) or (
        isinstance(value, StandIn) and value.name.startswith(kinds)
    )


def chosen_weights(content: object, weights: str | None, path: Path) -> str:
    """Return the place of the state dict that the user names, else of the network's only one.

    Args:
        content: What the file holds at its top.
        weights: Place of the state dict; None where there is no choice.
        path: The file, for messages.

    Raises:
        CheckpointError: There are several or none, or none has that name.
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
        return weights
    if not sets:
        raise CheckpointError(
            "The checkpoint holds no state dict.",
            where=str(path),
            expected="tensors by name, as conv1.weight, in a dict",
            got=_outline(content),
            fix="save what the network's state_dict() returns",
        )
    usual = next((place for place in USUAL_PLACES if place in sets), None)
    if usual is not None:
        names = _names(sets[usual])
        sets = {
            place: held
            for place, held in sets.items()
            if place == usual
            or (2 * len(names & _names(held)) >= len(names) and not _are_equal(sets[usual], held))
        }
    if len(sets) > 1:
        raise CheckpointError(
            "The checkpoint holds several sets of weights.",
            where=str(path),
            expected="one, or a word on which is meant",
            got=listed(sets),
            fix="say which one was evaluated: " + " or ".join(f"--weights {name}" for name in sets),
        )
    (place,) = sets
    return place


def _are_equal(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    """Tell whether two state dicts hold the same tensors, as those of the last and best epoch."""
    if one is other:
        return True
    pairs = [(value, other.get(key)) for key, value in one.items()]
    return one.keys() == other.keys() and all(
        isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b)
        for a, b in pairs
    )


def listed(sets: Mapping[str, Mapping[Any, Any]]) -> str:
    """Return the names of sets of weights with the number of their keys."""
    return ", ".join(f"{name} ({len(held)} keys)" for name, held in sets.items())


def _outline(content: object) -> str:
    if not isinstance(content, dict):
        return _kind(content)
    shown = [f"{key!s} ({_kind(value)})" for key, value in content.items()][:_SHOWN_KEYS]
    return ", ".join(shown) or "nothing"


def _kind(value: object) -> str:
    return value.name if isinstance(value, StandIn) else type(value).__name__


def _names(state: Mapping[Any, Any]) -> set[str]:
    tensors = [key for key, held in state.items() if isinstance(key, str) and is_tensor(held)]
    return {*without_wrappers(tensors).values()}


# --- names of tensors -----------------------------------------------------------------------------


def is_stray(key: str) -> bool:
    """Tell whether evaluation never reads a tensor of this name."""
    return _STRAY.fullmatch(key) is not None


def without_wrappers(keys: Collection[str]) -> dict[str, str]:
    """Return every key's name without what wrappers of the network add.

    These are the parts that stand for wrappers alone, and whatever all names begin with.

    >>> without_wrappers(["net.module.fc.bias", "net.layer1._orig_mod.conv1.weight"])
    {'net.module.fc.bias': 'fc.bias', 'net.layer1._orig_mod.conv1.weight': 'layer1.conv1.weight'}
    """
    return forms_of(keys)[-1]


def forms_of(keys: Collection[str]) -> list[dict[str, str]]:
    """Return what a network's keys may be in the network itself; in the last form all is cut."""
    forms = []
    for names in ({key: key for key in keys}, {key: _WRAPPERS.sub("", key) for key in keys}):
        form = names
        forms.append(form)
        while len(forms) < _MOST_FORMS and (head := _common_head(form.values())):
            form = {key: name.removeprefix(head) for key, name in form.items()}
            forms.append(form)
    return [form for form in forms if len({*form.values()}) == len(form)]


def parts_of(keys: Collection[str]) -> Iterator[dict[str, str]]:
    """Yield what the keys of each part of a training loop may be in that part itself."""
    for head in dict.fromkeys(_head(key) for key in keys):
        yield from forms_of([key for key in keys if _head(key) == head])


def network_part(keys: Collection[str]) -> list[str]:
    """Return the keys of the network, where it is one part of a training loop; else all.

    >>> network_part(["model.fc.weight", "model.fc.bias", "criterion.weight"])
    ['model.fc.weight', 'model.fc.bias']
    """
    held = [key for key in keys if _head(key) in _HOLDERS]
    return held if len({*map(_head, held)}) == 1 and 2 * len(held) > len(keys) else [*keys]


def _head(key: str) -> str:
    return _WRAPPERS.sub("", key).partition(".")[0]


def _common_head(names: Iterable[str]) -> str | None:
    """Return what all names begin with, up to a dot; None where a layer's name would be cut."""
    read = [name for name in names if not is_stray(name)]
    heads = {name.partition(".")[0] + "." for name in read if "." in name}
    is_deep = all("." in name for name in read) and any(name.count(".") > 1 for name in read)
    return heads.pop() if is_deep and len(heads) == 1 else None
