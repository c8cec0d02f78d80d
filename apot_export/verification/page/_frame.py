"""Jinja templates for pages whose data, whatever it holds, is shown as text."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from apot_export.errors import visible
from apot_export.verification.page import _numbers

_FILTERS = (
    _numbers.thousands,
    _numbers.plural,
    _numbers.compact,
    _numbers.percent,
    _numbers.real,
    _numbers.exact,
    _numbers.rate_per_second,
)


@cache
def environment() -> Environment:
    """Return the environment of this package's templates, with number formats as filters.

    Every value is escaped, and characters that do not print are spelled out by `visible`.
    """
    made = Environment(
        loader=PackageLoader("apot_export.verification.page"),
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update({each.__name__: each for each in _FILTERS})
    made.globals["interval"] = _numbers.interval
    return made


def render(template: str, **values: Any) -> str:
    """Return a template of this package filled with values."""
    return environment().get_template(template).render(values)
