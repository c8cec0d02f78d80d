"""Arguments of the library's functions: named, and of the types that they state."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from apot_export.errors import OptionError

P = ParamSpec("P")
R = TypeVar("R")


class _NotLoaded:
    """PyTorch's module `nn` until something imports it."""

    class Module:
        """Nothing is a network yet."""


def checked(*groups: type) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a function refuse arguments of other names and types than it states.

    Args:
        groups: Dataclasses whose fields the function takes as further named arguments. Its
            signature then lists them.

    Raises:
        OptionError: Of the function, when it is called with another name or type.
    """

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind != one.VAR_KEYWORD]
        listed = signature.replace(parameters=[*own, *_fields(groups)])

        def hints() -> Mapping[str, Any]:
            annotations = {one.name: one.annotation for one in own}
            found = {name: hint for group in groups for name, hint in _hints(group).items()}
            stated = types.SimpleNamespace(__annotations__=annotations)
            late = {"nn": sys.modules.get("torch.nn", _NotLoaded)}
            return found | get_type_hints(stated, function.__globals__, late)

        @functools.wraps(function)
        def checking(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in listed.parameters:
                    raise _unknown(name, list(listed.parameters))
            bound = listed.bind_partial(*args, **kwargs)
            bound.arguments |= in_types(bound.arguments, hints())
            return function(*bound.args, **bound.kwargs)

        checking.__signature__ = listed  # type: ignore[attr-defined]
        return checking

    return decorated


def require_fields(record: Any) -> None:
    """Have the fields of a dataclass in their types; raise `OptionError` where they are others."""
    for name, value in in_types(vars(record), _hints(record.__class__)).items():
        object.__setattr__(record, name, value)


@functools.cache
def _hints(group: Any) -> Mapping[str, Any]:
    return get_type_hints(group)


def in_types(given: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """Return values in the types of their names: integers of numpy and lists as Python's own.

    Raises:
        OptionError: A value is of another type.
    """
    found = {}
    for name, value in given.items():
        kinds = [*_kinds(hints[name])]
        found[name] = taken = _taken(value, kinds)
        member = get_args(hints[name])[0] if kinds == [tuple] else object
        members = taken if isinstance(taken, tuple) else ()
        is_right = any(_is(taken, kind) for kind in kinds)
        if not is_right or not all(isinstance(one, member) for one in members):
            stated = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
            raise OptionError(
                "An argument has another type than it should.",
                where=name,
                expected=stated if member is object else f"{stated} of {member.__name__}",
                got=f"{value!r:.100} ({type(value).__name__})",
                fix=_fix(name, value, kinds),
            )
    return found


def _fields(groups: tuple[type, ...]) -> Iterator[inspect.Parameter]:
    for group in groups:
        for field in dataclasses.fields(group):
            yield inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=field.type,
            )


def _kinds(hint: Any) -> Iterator[type]:
    """Yield the classes of a hint, without those of their members."""
    if get_origin(hint) in {Union, types.UnionType}:
        for one in get_args(hint):
            yield from _kinds(one)
    elif hint is Any:
        yield object
    else:
        yield get_origin(hint) or hint


def _taken(value: Any, kinds: list[type]) -> Any:
    """Return a value in Python's own type where it is an integer of numpy or a list."""
    if int in kinds and isinstance(value, np.integer):
        return int(value)
    if tuple in kinds and list not in kinds and isinstance(value, list):
        return tuple(value)
    return value


def _is(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind in {bool, object}
    return isinstance(value, (int, float) if kind is float else kind)


def _fix(name: str, value: object, kinds: list[type]) -> str:
    if isinstance(value, str) and int in kinds and value.isdecimal():
        return f"write {name}={int(value)}"
    for kind in kinds:
        if value is True and dataclasses.is_dataclass(kind):
            return f"write {name}=apot_export.{kind.__name__}()"
    return f"see help of the function for {name}"


def _unknown(name: str, names: list[str]) -> OptionError:
    near = get_close_matches(name, names, n=1)
    return OptionError(
        "There is no such argument.",
        expected=", ".join(names),
        got=name,
        fix=f"did you mean {near[0]}?" if near else "leave it out",
    )
