"""Ways to make the description of a small network malformed, by hand and at random."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from apot_export import downstream
from apot_export.artifacts.packed import PackedNetwork, load_packed
from apot_export.errors import PackedFileError
from tests.support.packed_files import Json, packed, seal, unseal


def with_network(content: object) -> bytes:
    header, data = unseal(packed())
    header["__metadata__"]["network"] = json.dumps(content)
    return seal(header, data)


def described() -> Json:
    return dict(json.loads(unseal(packed())[0]["__metadata__"]["network"]))


MALFORMED: list[tuple[str, object, str]] = [
    ("codebooks 0 denominator", 0, "must be positive"),
    ("codebooks 0 denominator", 1 << 24, "at most 2^23"),
    ("codebooks 0 denominator", math.inf, "no JSON number"),
    ("codebooks 0 denominator", "127", "an integer"),
    ("codebooks 0 signed", "false", "true or false"),
    ("codebooks 0 tables 0", [0, 3], "a power of two"),
    ("codebooks 0 tables 0", [0, 1 << 40], "an integer"),
    ("input shape", [3, 9], "unpack"),
    ("input shape", [3, 1 << 31, 1], "an integer"),
    ("layers first codebook", -1, "an integer"),
    ("layers first codebook", 99, "an integer"),
    ("layers first kind", "sparse", "unknown kind"),
    ("layers first shape", [-6, -3, 3, 3], "an integer"),
    ("layers first shape", [1 << 32, 1 << 32], "an integer"),
    ("layers first shape", [6, 3, 3, 4], "first.codes"),
    ("layers first step", 10**400, "a finite number"),
    ("layers wide activation alpha", 0, "is not positive"),
    ("layers wide activation alpha", -1.5, "is not positive"),
    ("layers wide activation alpha", 1e300, "is not positive"),
    ("layers wide activation alpha", 1e-44, "is too small"),
    ("layers wide activation", None, "no input quantizer"),
    ("layers float shape", [3, 5, 1, 1], "an object of kind"),
    ("nodes 0 stride", [0, 1], "an integer"),
    ("nodes 0 stride", [1, 1, 1], "unpack"),
    ("nodes 0 padding", [-1, 0], "an integer"),
    ("nodes 0 dilation", [1.0, 1], "an integer"),
    ("nodes 0 dilation", [0, 1], "from 1"),
    ("nodes 0 groups", True, "an integer"),
    ("nodes 0 inputs", ["logits"], "no earlier node"),
    ("nodes 0 inputs", ["image", "image"], "number of inputs"),
    ("nodes 0 inputs", "image", "an array"),
    ("nodes 0 layer", "nowhere", "does not exist"),
    ("nodes 0 operation", "Softmax", "Softmax"),
    ("nodes 0 ceil_mode", False, "an object of"),
    ("nodes 3 kernel", [0, 3], "from 1"),
    ("nodes 3 padding", [2, 0], "in the padding alone"),
    ("nodes 4 layer", "wide", "levels of wide"),
    ("nodes 5 inputs", ["pool"], "float32 values"),
    ("nodes 7 inputs", ["branch.sums", "pool"], "accumulators"),
    ("nodes -1 operation", "GlobalAveragePool", "without height and width"),
    ("output", "branch.levels", "levels of grouped"),
    ("output", "nowhere", "no node"),
    ("extra", {}, "an object of"),
]


def places(content: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    keys: list[Any] = list(content) if isinstance(content, dict) else []
    keys = list(range(len(content))) if isinstance(content, list) else keys
    return [path, *(place for key in keys for place in places(content[key], (*path, key)))]


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 9),
    st.sampled_from([127, 1 << 31, 1 << 63, 10**30, 0.5, 1e-30, 1e39, 1e999, -1.0, "", "image"]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4), max_leaves=4)


def mutate(data: st.DataObject, content: Any) -> Any:
    """Replace or remove one random part of a JSON document, or copy another part over it."""
    place = data.draw(st.sampled_from(places(content)))
    source: Any = content
    for key in data.draw(st.sampled_from(places(content))):
        source = source[key]
    value = data.draw(st.one_of(VALUES, st.just(copy.deepcopy(source))))
    if not place:
        return value
    parent: Any = content
    for key in place[:-1]:
        parent = parent[key]
    if data.draw(st.integers(0, 3)) == 0:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    return content


def both_readers(
    folder: Path, content: bytes
) -> tuple[PackedNetwork | None, downstream.DownstreamNetwork | None]:
    """Read with both readers; None stands for a refusal."""
    path = folder / "model.apot.safetensors"
    path.write_bytes(content)
    try:
        product = load_packed(path).check()
    except PackedFileError:
        product = None
    try:
        return product, downstream.load(path)
    except ValueError:
        return product, None
