"""Jinja templates for pages whose data, whatever it holds, is shown as text."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from apot_export.errors import visible
from apot_export.presentation import numbers

_SHARED = __package__
_FILTERS = (
    numbers.thousands,
    numbers.plural,
    numbers.compact,
    numbers.in_bytes,
    numbers.percent,
    numbers.real,
    numbers.exact,
    numbers.rate_per_second,
)


@cache
def environment(package: str = _SHARED) -> Environment:
    """Return the environment of a package's templates and the shared ones of this package.

    Formats of numbers are filters.

    Every value is escaped, and characters that do not print are spelled out by `visible`.
    """
    made = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, _SHARED))]),
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update({each.__name__: each for each in _FILTERS})
    made.globals["interval"] = numbers.interval
    return made


def render(package: str, template: str, **values: Any) -> str:
    """Return a template of a package filled with values."""
    return environment(package).get_template(template).render(values)
