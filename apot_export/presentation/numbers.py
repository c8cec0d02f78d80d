"""Numbers as people read them."""

from __future__ import annotations

import math

_TIMES = " \xd7 "
_MOST_DIGITS = 8
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_TEN, _THOUSAND, _BILLION = 10, 1000, 10**9


def thousands(number: int) -> str:
    """Return a whole number with thousands separators.

    >>> thousands(13369344)
    '13,369,344'
    """
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """Return a counted noun.

    >>> plural(1, "image"), plural(1200, "image")
    ('1 image', '1,200 images')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def compact(number: int) -> str:
    """Return a whole number in at most four characters or so.

    >>> [compact(n) for n in (0, 999, 1000, 1012, 23456, 999999, 13369344)]
    ['0', '999', '1k', '1.0k', '23k', '1.0M', '13M']
    """
    value, unit, size = float(number), "", 1
    for larger in ("k", "M", "G", "T"):
        if value < _THOUSAND - 0.5:
            break
        value, unit, size = value / _THOUSAND, larger, size * _THOUSAND
    whole = number % size == 0 or value >= _TEN - 0.05
    return f"{value:.0f}{unit}" if whole else f"{value:.1f}{unit}"


def in_bytes(count: int) -> str:
    """Return a number of bytes with its unit.

    >>> in_bytes(135980), in_bytes(12)
    ('135.98 kB', '12 B')
    """
    for unit, size in (("MB", 1_000_000), ("kB", 1_000)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


def percent(rate: float, digits: int = 2) -> str:
    """Return a rate in [0, 1] as a percentage that rounds neither to all nor to nothing.

    >>> percent(0.9304), percent(1.0), percent(0.999999), percent(0.0)
    ('93.04%', '100.00%', '99.9999%', '0.00%')
    """
    extremes = {f"{0:.{digits}%}", f"{1:.{digits}%}"}
    if 0 < rate < 1 and digits < _MOST_DIGITS and f"{rate:.{digits}%}" in extremes:
        return percent(rate, digits + 1)
    return f"{rate:.{digits}%}"


def interval(low: float, high: float) -> str:
    """Return an interval of rates.

    >>> interval(0.9154, 0.9897)
    '91.5% to 99.0%'
    """
    return f"{low:.1%} to {high:.1%}"


def real(number: float, digits: int = 3) -> str:
    r"""Return a measured float, rounded to that many significant digits, whole from 1000 on.

    >>> real(0.0961492), real(5120.4), real(3.5e-101, 2), real(float("nan"))
    ('0.0961', '5,120', '3.5 \xd7 10⁻¹⁰¹', 'NaN')
    """
    if _THOUSAND <= abs(number) < _BILLION:
        return f"{number:,.0f}"
    mantissa, _, exponent = exact(number, digits).partition("e")
    return f"{mantissa}{_TIMES}{power_of_ten(int(exponent))}" if exponent else mantissa


def exact(number: float, digits: int = 9) -> str:
    """Return a float as it can be typed; nine digits tell all float32 values apart.

    >>> exact(-0.25), exact(1.0000001), exact(1e-10), exact(float("inf"))
    ('-0.25', '1.0000001', '1e-10', 'infinite')
    """
    if math.isinf(number):
        return "infinite" if number > 0 else "-infinite"
    return "NaN" if math.isnan(number) else f"{number:.{digits}g}"


def rate_per_second(number: float) -> str:
    """Return images per second.

    >>> rate_per_second(1912.3), rate_per_second(0.4213)
    ('1,912', '0.42')
    """
    return f"{number:,.0f}" if number >= _TEN else f"{number:.2g}"


def power_of_ten(exponent: int) -> str:
    """Return a power of ten with a raised exponent.

    >>> power_of_ten(-7), power_of_ten(0), power_of_ten(1)
    ('10⁻⁷', '1', '10')
    """
    if exponent in (0, 1):
        return str(10**exponent)
    return "10" + str(exponent).translate(_SUPERSCRIPTS)
