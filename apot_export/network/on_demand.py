"""Fields that are read when they are first used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class OnDemand(Generic[T]):
    """A field of a dataclass that takes its value, or a function that returns it.

    The function is called when the field is first read, and only then. What it raises, reading the
    field raises, each time again.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Square:
    ...     area: OnDemand[int] = OnDemand()
    >>> Square(area=4).area, Square(area=lambda: print("measuring") or 9).area
    measuring
    (4, 9)
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._place = f"_{name}"

    @overload
    def __get__(self, instance: None, owner: type) -> OnDemand[T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: Any, owner: type) -> OnDemand[T] | T:
        if instance is None:
            # So that `dataclass` finds no default value.
            raise AttributeError(self._place)
        value = vars(instance)[self._place]
        if callable(value):
            value = vars(instance)[self._place] = value()
        return value

    def pending(self, instance: object) -> Callable[[], T] | None:
        """Return the function that has not been called yet; None where the value is there."""
        value = vars(instance)[self._place]
        return value if callable(value) else None

    def __set__(self, instance: Any, value: T | Callable[[], T]) -> None:
        vars(instance)[self._place] = value
