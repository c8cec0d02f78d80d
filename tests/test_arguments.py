"""Arguments of the library's functions: names and types."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import apot_export
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.errors import OptionError
from apot_export.original.choices import Choices, Stated
from apot_export.original.quantization import LayerBits
from apot_export.verification import RunOptions
from apot_export.verification._options import StatedRun
from tests.support.commands import CHECKPOINT, EXPORT

WRONG: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "a number in quotes": ({"bits": "4"}, "bits", "int or None", "write bits=4"),
    "a yes for options": (
        {"integer": True},
        "integer",
        "IntegerChoices or None",
        "write integer=apot_export.IntegerChoices()",
    ),
    "a number for a yes": ({"compress": 1}, "compress", "bool", "see help"),
    "a yes for a number": ({"batch": True}, "batch", "int", "see help"),
    "texts for bits of layers": (
        {"layer_bits": ["conv1=4"]},
        "layer_bits",
        "tuple of LayerBits",
        "see help",
    ),
    "a list for a text": ({"method": ["apot"]}, "method", "str or None", "see help"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_types_are_refused(case: str, exported: Path, tmp_path: Path) -> None:
    given, where, expected, fix = WRONG[case]
    with pytest.raises(OptionError) as caught:
        apot_export.convert(exported / CHECKPOINT, tmp_path / "out", **given)
    assert (caught.value.where, caught.value.expected) == (where, expected)
    assert caught.value.got == f"{given[where]!r} ({type(given[where]).__name__})"
    assert str(caught.value.fix).startswith(fix)
    assert not (tmp_path / "out").exists()


def test_integers_of_numpy_and_lists_are_pythons_own() -> None:
    layer = LayerBits(pattern="*", weight_bits=np.int64(3), activation_bits=4)
    given: Any = {"bits": np.uint8(4), "layer_bits": [layer]}
    made = Choices(**given)
    assert (made.bits, type(made.bits), type(layer.weight_bits)) == (4, int, int)
    assert made.layer_bits == (layer,)


def test_other_names_are_refused_with_the_nearest(exported: Path) -> None:
    wrong: dict[str, Any] = {"limt": 3}
    with pytest.raises(OptionError) as caught:
        apot_export.verify(exported / EXPORT, **wrong)
    assert caught.value.fix == "did you mean limit?"
    with pytest.raises(OptionError, match="no such argument"):
        apot_export.inspect(exported / EXPORT, **wrong)


def test_every_function_checks(exported: Path) -> None:
    calls: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (apot_export.tune, {"seconds": "60"}),
        (apot_export.verify, {"limit": 2.5}),
        (apot_export.inspect, {"bits": "4"}),
        (apot_export.convert_export, {"target": None}),
    ]
    for function, wrong in calls:
        with pytest.raises(OptionError, match="another type"):
            function(exported / EXPORT, **wrong)
    with pytest.raises(OptionError, match="another type"):
        apot_export.compare(exported / EXPORT, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("group", "wrong"),
    [
        (Choices, {"layer_bits": "conv1=4"}),
        (IntegerChoices, {"fraction_bits": 4.0}),
        (RunOptions, {"seed": None}),
        (LayerBits, {"pattern": "*", "weight_bits": "3", "activation_bits": 3}),
    ],
)
def test_records_check_their_fields(group: type, wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="another type"):
        group(**wrong)


def test_named_arguments_are_the_fields_of_the_records() -> None:
    assert get_type_hints(Stated) == get_type_hints(Choices)
    assert get_type_hints(StatedRun) == get_type_hints(Choices) | get_type_hints(RunOptions)
    for function, groups in (
        (apot_export.convert, [Choices]),
        (apot_export.inspect, [Choices]),
        (apot_export.verify, [RunOptions, Choices]),
    ):
        listed = inspect.signature(function).parameters
        for group in groups:
            for field in fields(group):
                assert listed[field.name].default == field.default
        assert all(one.kind != one.VAR_KEYWORD for one in listed.values())
