"""JSON (1.2) and the objects of a file (2): which members each has, of what kinds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

_Check = Callable[[Any], bool]
DEEPEST_JSON = 32
"""Arrays and objects inside each other (5.1)."""
_MOST_AXES = 33


def require(fine: Any, problem: str) -> None:
    """Raise a ValueError that names the problem, unless all is fine."""
    if not fine:
        raise ValueError(problem)


def parse(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON object without repeated names, NaN and infinities (1.2)."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        require(len(dict(pairs)) == len(pairs), "a name occurs twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON that the format allows: {error}") from error
    require(type(value) is dict, f"{where} is no JSON object")
    level: list[Any] = [value]
    for _ in range(DEEPEST_JSON):
        inside = [one.values() if type(one) is dict else one for one in level]
        level = [inner for one in inside for inner in one if type(inner) in {dict, list}]
    require(not level, f"{where}: more than {DEEPEST_JSON} arrays and objects inside each other")
    return dict(value)


def _is(kind: type) -> _Check:
    return lambda value: type(value) is kind


def _integer(low: int, high: int = 2**31 - 1) -> _Check:
    return lambda value: type(value) is int and low <= value <= high


def _number(value: Any) -> bool:
    return type(value) in {int, float} and abs(value) <= sys.float_info.max


def _array(item: _Check, *lengths: int) -> _Check:
    return lambda value: (
        type(value) is list and (not lengths or len(value) in lengths) and all(map(item, value))
    )


_KINDS: Mapping[str, _Check] = {
    "array": _is(list),
    "bits": _integer(1, 8),
    "counts": _array(_integer(0), *range(_MOST_AXES)),
    "denominator": _integer(1, 2**23),
    "digits": _array(_integer(0), *range(2, 17)),
    "dtype": ["U8", "F32"].__contains__,
    "extents": _array(_integer(1), *range(_MOST_AXES)),
    "flag": _is(bool),
    "image": _array(_integer(1), 3),
    "integer": _integer(0),
    "margin": _array(_integer(0), 2),
    "null": _is(type(None)),
    "number": _number,
    "object": _is(dict),
    "offsets": _array(_integer(0, 2**63), 2),
    "pair": _array(_integer(1), 2),
    "positive": _integer(1),
    "run": _array(_integer(0), 1, 2),
    "shape": _array(_integer(1), 2, 4),
    "tables": _array(_array(_integer(1 - 2**31))),
    "text": _is(str),
    "texts": _array(_is(str)),
}

TENSOR = "dtype:dtype shape:extents data_offsets:offsets"
"""Members as `name:kind`; a `?` marks those that may be left out, a `|` separates kinds."""
NETWORK = (
    "input:object output:text codebooks:array layers:object nodes:array further_outputs?:texts"
)
INPUT = "name:text shape:image"
CODEBOOK = "tables:tables denominator:denominator signed:flag"
ACTIVATION = "codebook:integer alpha:number input_denominator?:denominator"
LAYERS = {
    "float": "kind:text",
    "coded": "kind:text shape:shape codebook:integer step:number alpha?:number|null "
    "activation?:object|null storage?:object|null values?:run|null "
    "scales?:run|null",
    "planes": "kind:text shape:shape group_size:positive count_bits?:bits position_major?:flag "
    "terms?:integer coordinates?:run|null",
}
STORAGES = {"digits": "digits:digits", "entropy": "entropy:pair"}
NODE = "name:text operation:text inputs?:texts "
OPERATIONS = {
    "Convolution": "layer:text stride?:pair padding?:margin dilation?:pair groups?:positive",
    "Linear": "layer:text",
    "QuantizeActivation": "layer:text",
    "ScaleBias": "scale?:number|run bias?:number|run",
    "Add": "",
    "Relu": "",
    "Clip": "minimum:number maximum:number",
    "Concat": "axis?:positive",
    "Upsample": "scale:pair",
    "MaxPool": "kernel:pair stride:pair padding?:margin",
    "AveragePool": "kernel:pair stride:pair",
    "GlobalAveragePool": "",
    "Flatten": "",
    "Multiply": "",
    "Elementwise": "function:text",
    "Reduce": "function:text axes:extents",
    "Slice": "start:counts stop:extents step:extents",
    "Pad": "before:counts after:counts value?:number|null",
    "Reshape": "shape:extents",
    "Transpose": "order:extents",
    "Resample": "rows:run columns:run",
}
NEW_IN_VERSION_3 = frozenset(
    {"Multiply", "Elementwise", "Reduce", "Slice", "Pad", "Reshape", "Transpose", "Resample"}
)
_DEFAULTS = {
    "stride": [1, 1],
    "padding": [0, 0],
    "dilation": [1, 1],
    "groups": 1,
    "scale": 1,
    "bias": 0,
    "count_bits": 3,
    "axis": 1,
    "value": 0,
    "further_outputs": [],
    "position_major": False,
    "terms": 0,
}


def members(value: Any, where: str, record: str) -> dict[str, Any]:
    """Check an object against a record; return its members, and the defaults of those left out."""
    require(type(value) is dict, f"{where} is no JSON object")
    kinds, optional = {}, set()
    for member in record.split():
        name, kind = member.split(":")
        kinds[name.rstrip("?")] = kind.split("|")
        if name.endswith("?"):
            optional.add(name.rstrip("?"))
    missing, extra = kinds.keys() - optional - value.keys(), value.keys() - kinds.keys()
    require(not missing, f"{where} lacks {', '.join(sorted(missing))}")
    require(not extra, f"{where} must not have {', '.join(sorted(extra))}")
    for name, found in value.items():
        fine = any(_KINDS[kind](found) for kind in kinds[name])
        require(fine, f"{where}: {name} must be {' or '.join(kinds[name])}, not {found!r:.60}")
    return {name: value.get(name, _DEFAULTS.get(name)) for name in kinds}
