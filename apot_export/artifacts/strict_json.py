"""JSON as FORMAT.md narrows it: unique names, no NaN, every value exactly of its stated type."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from apot_export import budgets
from apot_export.budgets import Budget
from apot_export.errors import ApotExportError

LARGEST_INTEGER = (1 << 31) - 1
"""Largest extent, attribute or index of the format."""


def dumps(content: object, *, sort_keys: bool = False) -> str:
    """Serialise without blanks, in ASCII.

    Raises:
        ValueError: The content holds NaN or an infinity.
    """
    return json.dumps(content, separators=(",", ":"), allow_nan=False, sort_keys=sort_keys)


def finite(content: Any) -> Any:
    """Return content as JSON holds it: tuples as lists, floats that are not finite as None."""
    if isinstance(content, dict):
        return {name: finite(member) for name, member in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(member) for member in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def require_modest(
    budget: Budget, content: bytes, where: str, error: type[ApotExportError]
) -> None:
    """Raise `error` where JSON, strings of it included, is larger than a file may ask for."""
    budget.require(budgets.JSON_BYTES, len(content), where, error)
    values = sum(content.count(mark) for mark in (b",", b"[", b"{"))
    budget.require(budgets.JSON_VALUES, values, where, error)


def loads(text: str) -> Any:
    """Parse strictly.

    Raises:
        ValueError: The text is not JSON, repeats a name, holds NaN or is nested too deeply.
    """
    too_deep = f"more than {budgets.DEEPEST_JSON} arrays and objects inside each other"
    try:
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError(too_deep) from error
    level = [content] if isinstance(content, (list, dict)) else []
    for _ in range(budgets.DEEPEST_JSON):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (list, dict))
        ]
    if level:
        raise ValueError(too_deep)
    return content


def fields(where: str, content: Any, *names: str) -> list[Any]:
    """Return the members of an object that has exactly these names, in this order."""
    return members(where, content, names, {})


def members(
    where: str, content: Any, required: Sequence[str], optional: Mapping[str, Any]
) -> list[Any]:
    """Return an object's members: all required ones, then the optional ones or their defaults."""
    names = {*required, *optional}
    if not isinstance(content, dict) or not set(required) <= set(content) <= names:
        raise _unexpected(where, f"an object of {', '.join([*required, *optional])}", content)
    return [content[name] if name in content else optional[name] for name in (*required, *optional)]


def array(where: str, content: Any) -> list[Any]:
    """Return an array."""
    if not isinstance(content, list):
        raise _unexpected(where, "an array", content)
    return content


def mapping(where: str, content: Any) -> dict[str, Any]:
    """Return an object of any names."""
    if not isinstance(content, dict):
        raise _unexpected(where, "an object", content)
    return content


def text(where: str, content: Any) -> str:
    """Return a string."""
    if not isinstance(content, str):
        raise _unexpected(where, "a string", content)
    return content


def boolean(where: str, content: Any) -> bool:
    """Return a truth value."""
    if not isinstance(content, bool):
        raise _unexpected(where, "true or false", content)
    return content


def integer(where: str, content: Any, least: int = 0, most: int = LARGEST_INTEGER) -> int:
    """Return an integer in [least, most]."""
    # JSON's true is an int to Python.
    if not isinstance(content, int) or isinstance(content, bool) or not least <= content <= most:
        raise _unexpected(where, f"an integer from {least} to {most}", content)
    return content


def integers(
    where: str, content: Any, least: int = 0, most: int = LARGEST_INTEGER
) -> tuple[int, ...]:
    """Return an array of integers in [least, most]."""
    return tuple(integer(where, element, least, most) for element in array(where, content))


def number(where: str, content: Any) -> float:
    """Return a finite number."""
    if isinstance(content, (int, float)) and not isinstance(content, bool):
        try:
            converted = float(content)
        except OverflowError:
            converted = math.inf
        if math.isfinite(converted):
            return converted
    raise _unexpected(where, "a finite number", content)


def _unexpected(where: str, expected: str, content: Any) -> ValueError:
    return ValueError(f"{where}: expected {expected}, got {reprlib.repr(content)}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a JSON object repeats a name")
    return content


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")
