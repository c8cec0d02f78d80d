"""Ways to make the description of a small network malformed, at random."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from apot_export import downstream
from apot_export.artifacts.packed import PackedNetwork, load_packed
from apot_export.errors import PackedFileError
from conformance.files import Json, seal, unseal
from tests.support.packed_files import packed


def with_network(content: object) -> bytes:
    header, data = unseal(packed())
    header["__metadata__"]["network"] = json.dumps(content)
    return seal(header, data)


def described() -> Json:
    return dict(json.loads(unseal(packed())[0]["__metadata__"]["network"]))


def places(content: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    keys: list[Any] = list(content) if isinstance(content, dict) else []
    keys = list(range(len(content))) if isinstance(content, list) else keys
    return [path, *(place for key in keys for place in places(content[key], (*path, key)))]


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 9),
    st.sampled_from(
        [127, 1 << 20, (1 << 31) - 1, 1 << 63, 10**30, 0.5, 1e-30, 1e39, 1e999, -1.0, "", "image"]
    ),
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
