"""How results show themselves: in a line, and in a notebook as a small table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape


class Shown:
    """What has facts to show; its dataclasses leave `repr` to it."""

    def _facts(self) -> Iterator[tuple[str, object]]:
        """Yield names and values, the most telling first; values of None are left out."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """Return class and facts in a line."""
        facts = ", ".join(f"{name}: {value}" for name, value in self._facts() if value is not None)
        return f"<{type(self).__name__} {facts}>"

    def _repr_html_(self) -> str:
        """Return the facts as a table, for notebooks."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(str(value))}</td></tr>"
            for name, value in self._facts()
            if value is not None
        )
        return f"<table><caption>{type(self).__name__}</caption>{rows}</table>"


def dimensions(shape: Sequence[int]) -> str:
    """Return a shape as people write it.

    >>> dimensions((3, 32, 32))
    '3 x 32 x 32'
    """
    return " x ".join(map(str, shape))


def percent(share: float | None) -> str | None:
    """Return a share as percents, None as it is.

    >>> percent(0.93042)
    '93.04%'
    """
    return None if share is None else f"{share:.2%}"
