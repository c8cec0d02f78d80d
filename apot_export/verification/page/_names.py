"""What a report's own words are called on the page."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from apot_export.verification.page._markup import Markup, joined, tag
from apot_export.verification.report import Report, Yardstick

_EXECUTORS = {
    "ort-cpu": "ONNX Runtime, CPU",
    "ort-cuda": "ONNX Runtime, CUDA",
    "openvino": "OpenVINO",
    "native": "Native kernels",
    "oracle": "Oracle, shifts and adds",
    "packed": "Packed file",
}
_METHODS = {"apot": "additive powers of two", "pot": "powers of two", "uniform": "uniform levels"}
_SWITCHES = {"TF32"}
_MULTI_BIT = "alq"
_FULL_PRECISION = 32


def spoken(name: str) -> str:
    """Return what an executor is called."""
    return _EXECUTORS.get(name, name)


def executor(name: str) -> Markup:
    """Return what an executor is called, with the word that the command line knows it by."""
    known = _EXECUTORS.get(name)
    return joined([name] if known is None else [known, tag("code", name, class_="word")], " ")


def original(report: Report) -> str:
    """Return what the original is called."""
    terms = report.settings.get("alpha_terms")
    if terms:
        return f"PyTorch original, coordinates rounded to {terms} powers of two"
    return "PyTorch original"


def itself(yardstick: Yardstick) -> str:
    """Return what the original is called when it is computed another way."""
    how = "with" if yardstick.name in _SWITCHES else "another"
    return f"Original, {how} {yardstick.name}"


def title(report: Report) -> str:
    """Return what the export is called."""
    return report.path.name or str(report.path)


def quantization(report: Report) -> str:
    """Return bits and level set."""
    settings = report.settings
    if settings.get("family") == _MULTI_BIT:
        return "sign vectors of one bit a weight each"
    bits = settings.get("bits")
    if bits is None:
        return "not known"
    if bits == _FULL_PRECISION:
        return "float32"
    method = str(settings.get("method", ""))
    return f"{bits}, {_METHODS.get(method, method)}" if method else str(bits)


def exactness(report: Report) -> str:
    """Return how equal weights can be."""
    if report.settings.get("family") == _MULTI_BIT:
        return "up to the order of adding sign vectors"
    if report.settings.get("unsigned_zeros"):
        return "bit for bit, zeros without signs"
    return "bit for bit"


def moment(date: str) -> str:
    """Return a date and time; as it is where it is none of ISO 8601 in UTC.

    >>> moment("2026-03-14T15:09:26+00:00"), moment("yesterday")
    ('2026-03-14 15:09:26 UTC', 'yesterday')
    """
    try:
        parsed = datetime.fromisoformat(date.replace("Z", "+00:00"))
    except ValueError:
        return date
    return f"{parsed:%Y-%m-%d %H:%M:%S} UTC" if parsed.utcoffset() == timedelta() else date


def setting(value: Any) -> str:
    """Return a value of the settings."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        pairs = ", ".join(f"{key} = {setting(held)}" for key, held in value.items())
        return pairs or "none"
    return "none" if value is None else str(value)
