"""What a training run recorded in its checkpoint beside the weights: accuracy and bit-widths."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from apot_export.original._data import StandIn

_KEYS = (
    *("best_prec1", "best_prec", "best_acc1", "best_acc", "best_top1", "best_accuracy"),
    *("test_acc", "test_accuracy", "val_acc", "prec1", "acc1", "top1", "acc", "accuracy"),
)
"""Names under which training codes record a top-1 accuracy; the first one with a usable value is
taken. Accuracies of the best epoch come first: that epoch's weights are what is published."""
_OPTIONS = (
    *("__metadata__", "args", "opt", "options", "hparams", "hyper_parameters", "config", "cfg"),
)
"""Names under which training codes keep the options of a run."""
_BITS = {
    "bits": re.compile(r"(n|num|w|wgt|weight|weights)?_?bits?(_?w)?"),
    "activation_bits": re.compile(r"(a|act|activation|activations)_?bits?|bits?_?a"),
}
"""Names of the options that state bit-widths."""
_WIDTHS = tuple(map(str, range(2, 9)))


@dataclass(frozen=True, kw_only=True)
class Record:
    """A recorded top-1 accuracy."""

    key: str
    value: float
    """Fraction in (0, 1]."""

    def to_json(self) -> dict[str, Any]:
        """Return the form that manifests store."""
        return asdict(self)

    @staticmethod
    def of_json(content: Mapping[str, Any] | None) -> Record | None:
        """Read what `to_json` returned; None where a manifest has no record.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        if content is None:
            return None
        return Record(key=str(content["key"]), value=float(content["value"]))


def record_of(content: object) -> tuple[Record | None, str | None]:
    """Find the accuracy that a checkpoint's file records.

    Numbers up to 1 are read as fractions, larger ones as per cent.

    Args:
        content: What the file holds at its top.

    Returns:
        The record, if there is one; and a sentence on values that cannot be accuracies.

    >>> record_of({"best_prec": 92.47})
    (Record(key='best_prec', value=0.9247), None)
    """
    if not isinstance(content, Mapping):
        return None, None
    record, ignored = None, []
    for key in (key for key in _KEYS if key in content):
        number = _number(content[key])
        if number is None or not 0 < number <= 100:  # noqa: PLR2004 - per cent; refuses NaN, too
            shown = "not a number" if number is None else f"{number:g}"
            ignored.append(f"{key} ({shown})")
        elif record is None:
            record = Record(key=key, value=number if number <= 1 else round(number / 100, 12))
    if not ignored:
        return record, None
    return record, f"recorded values that cannot be accuracies were ignored: {', '.join(ignored)}"


def recorded_bits(content: object) -> dict[str, int]:
    """Find the bit-widths among the options that a checkpoint's file records.

    Args:
        content: What the file holds at its top.

    Returns:
        "bits" and "activation_bits", each where one number and no other is stated.

    >>> recorded_bits({"args": {"bit": 4, "lr": 0.1}})
    {'bits': 4}
    """
    found: dict[str, set[int]] = {name: set() for name in _BITS}
    for place in _OPTIONS:
        options = content.get(place) if isinstance(content, Mapping) else None
        held = options.held if isinstance(options, StandIn) else options
        for key, value in held.items() if isinstance(held, Mapping) else ():
            for name, pattern in _BITS.items():
                if pattern.fullmatch(str(key).lower()) and str(value) in _WIDTHS:
                    found[name].add(int(value))
    return {name: widths.pop() for name, widths in found.items() if len(widths) == 1}


def _number(value: object) -> float | None:
    """Return a Python, numpy or PyTorch number as a float; None for anything else."""
    if isinstance(value, torch.Tensor):
        value = value.item() if value.numel() == 1 and not value.is_meta else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
