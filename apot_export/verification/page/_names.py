"""Names and settings of a verification report in plain words."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from apot_export.original.families import MULTI_BIT
from apot_export.presentation.words import LEVELS
from apot_export.verification.report import ComparedSide, Report, Yardstick

_EXECUTORS = {
    "ort-cpu": "ONNX Runtime, CPU",
    "ort-cuda": "ONNX Runtime, CUDA",
    "openvino": "OpenVINO",
    "native": "Native kernels",
    "oracle": "Oracle, shifts and adds",
    "packed": "Packed file",
}
_SWITCHES = {"TF32"}
_FULL_PRECISION = 32


def executor(name: str) -> str:
    """Return an executor's name in plain words."""
    return _EXECUTORS.get(name, name)


def word(name: str) -> str | None:
    """Return an executor's name on the command line; None where `executor` returns the same."""
    return name if name in _EXECUTORS else None


def original(report: Report) -> str:
    """Return the name of what the sides are compared with."""
    if report.settings.get("original", {}) is None:
        baseline = report.settings.get("baseline")
        return f"Packed file, {executor(baseline)}" if baseline else "Your outputs"
    terms = report.settings.get("alpha_terms")
    if terms:
        return f"PyTorch original, coordinates rounded to {terms} powers of two"
    return "PyTorch original"


def stated(report: Report) -> str | None:
    """Return which original the user stated; None where it is the one of the manifest."""
    found = report.settings.get("original")
    if not found or not found.get("stated"):
        return None
    model = found["model"] and found["model"]["factory"]
    what = ", ".join(filter(None, (found["checkpoint"], model))) or "a network in memory"
    return f"stated by the user: {what}; {setting(found['choices'])}"


def itself(yardstick: Yardstick) -> str:
    """Return the name of the original computed another way."""
    how = "with" if yardstick.name in _SWITCHES else "another"
    return f"Original, {how} {yardstick.name}"


def share(some: int, of_all: int) -> str:
    """Return a number of things that were counted, and of how many.

    >>> share(0, 12345)
    '0 of 12,345'
    """
    return f"{some:,} of {of_all:,}" if of_all else "none"


def agreeing(report: Report, other: ComparedSide) -> int:
    """Return for how many images an executor names the original's class."""
    return round(other.agreement * report.images)


def title(report: Report) -> str:
    """Return the export's name."""
    return report.path.name or str(report.path)


def quantization(report: Report) -> str:
    """Return bit-width and level set of the weights."""
    settings = report.settings
    if settings.get("family") == MULTI_BIT.name:
        return "sign vectors of one bit a weight each"
    bits = settings.get("bits")
    if bits is None:
        return "not known"
    if bits == _FULL_PRECISION:
        return "float32"
    method = str(settings.get("method", ""))
    return f"{bits}, {LEVELS.get(method, method)}" if method else str(bits)


def parts(report: Report) -> list[tuple[str, str]]:
    """Return the parts of the quantization and their values with sources, as recorded."""
    held = report.settings.get("assumptions")
    entries = [part for part in held if isinstance(part, dict)] if isinstance(held, list) else []
    return [
        (str(part.get("what")), f"{part.get('value')} ({part.get('source')})") for part in entries
    ]


def exactness(report: Report) -> str:
    """Return in which sense the compared weights can be equal."""
    if report.settings.get("family") == MULTI_BIT.name:
        return "up to the order of adding sign vectors"
    if report.settings.get("unsigned_zeros"):
        return "bit for bit, zeros without signs"
    return "bit for bit"


def moment(date: str) -> str:
    """Return an ISO 8601 date and time in UTC in readable form; any other text unchanged.

    >>> moment("2026-03-14T15:09:26+00:00"), moment("yesterday")
    ('2026-03-14 15:09:26 UTC', 'yesterday')
    """
    try:
        parsed = datetime.fromisoformat(date.replace("Z", "+00:00"))
    except ValueError:
        return date
    return f"{parsed:%Y-%m-%d %H:%M:%S} UTC" if parsed.utcoffset() == timedelta() else date


def setting(value: Any) -> str:
    """Return a value of the settings as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        pairs = ", ".join(f"{key} = {setting(held)}" for key, held in value.items())
        return pairs or "none"
    return "none" if value is None else str(value)
