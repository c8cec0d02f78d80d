"""Packed files taken apart, changed anywhere, and put together with right offsets and checksums."""

from __future__ import annotations

import copy
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.integer import lower
from conformance.files import Json, seal, unseal
from tests.support.fuzzing import damaged, random_input
from tests.support.malformed_networks import mutate
from tests.support.random_coded_networks import plane_network


def _item_bytes(entry: Json) -> int:
    return 4 if entry.get("dtype") == "F32" else 1


@dataclass(kw_only=True)
class Parts:
    """The content of a packed file, without what follows from it: offsets, padding, checksums."""

    metadata: Json
    network: Any
    provenance: Any
    entries: dict[str, Json]
    """`dtype` and `shape` of every tensor, in the order of their data."""
    tensors: dict[str, bytes]

    @classmethod
    def of(cls, content: bytes) -> Parts:
        """Take a well-formed file apart."""
        header, data = unseal(content)
        metadata = header.pop("__metadata__")
        named = [name for name in header if not name.startswith("_padding.")]
        named.sort(key=lambda name: header[name]["data_offsets"])
        offsets = {name: header[name].pop("data_offsets") for name in named}
        return cls(
            network=json.loads(metadata.pop("network")),
            provenance=json.loads(metadata.pop("provenance")),
            metadata=metadata,
            entries={name: header[name] for name in named},
            tensors={name: data[begin:end] for name, (begin, end) in offsets.items()},
        )

    def header(self) -> tuple[Json, bytes]:
        """Return a file's header, all but its checksum right, and its data."""
        data, checksums = b"", ""
        entries: Json = {}
        for name, entry in self.entries.items():
            content = self.tensors[name]
            multiple = 64 if len(content) >= 1 << 14 else _item_bytes(entry)
            if filling := -len(data) % multiple:
                offsets = [len(data), len(data) + filling]
                padding = {"dtype": "U8", "shape": [filling], "data_offsets": offsets}
                entries[f"_padding.{len(entries)}"] = padding
                data += bytes(filling)
            entries[name] = {**entry, "data_offsets": [len(data), len(data) + len(content)]}
            checksums += f"{zlib.crc32(content):08x}"
            data += content
        metadata = {
            "header_crc32": "00000000",
            **{name: self.metadata[name] for name in self.metadata if name != "header_crc32"},
            "network": json.dumps(self.network),
            "provenance": json.dumps(self.provenance),
        }
        if "checksums" in self.metadata:
            metadata["checksums"] = checksums
        return {"__metadata__": metadata, **entries}, data

    def fit_shape(self, name: str) -> None:
        """Let a tensor's shape be as long as its content."""
        entry = self.entries[name]
        entry["shape"] = [max(1, len(self.tensors[name]) // _item_bytes(entry))]


VALID = Path(__file__).parents[2] / "conformance" / "valid"


@cache
def sound_files() -> dict[str, bytes]:
    """Return files of every feature of the format: those of the conformance kit, and a program."""
    found = {path.name: path.read_bytes() for path in sorted(VALID.glob("*.safetensors"))}
    program = lower(plane_network(), fraction_bits=6)
    return {**found, "program": packed_file_bytes(plane_network(), {}, program)}


def changed_file(data: st.DataObject) -> bytes:
    """Return a well-formed file changed in a few places, most often under right checksums."""
    parts = Parts.of(sound_files()[data.draw(st.sampled_from(sorted(sound_files())))])
    for _ in range(data.draw(st.integers(0, 3))):
        data.draw(st.sampled_from(CHANGES))(data, parts)
    header, content = parts.header()
    if data.draw(st.integers(0, 7)) == 0:
        metadata = header.pop("__metadata__")
        header = {"__metadata__": metadata, **_object(mutate(data, header))}
    file = seal(header, content)
    if data.draw(st.integers(0, 7)) == 0:
        file = _damaged(data, file)
    return file


def changed_files(count: int) -> Iterator[bytes]:
    """Yield files that are changed in ways that are always the same."""
    found: list[bytes] = []

    @given(st.data())
    def collect(data: st.DataObject) -> None:
        found.append(changed_file(data))

    for seed in range(count):
        collect.hypothesis.fuzz_one_input(random_input(seed))  # type: ignore[attr-defined]
        yield from found
        found.clear()


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {"other": value}


def _network(data: st.DataObject, parts: Parts) -> None:
    parts.network = mutate(data, parts.network)


def _layer(data: st.DataObject, parts: Parts) -> None:
    layers = _object(_object(parts.network).get("layers"))
    if layers:
        name = data.draw(st.sampled_from(sorted(layers)))
        layers[name] = mutate(data, copy.deepcopy(layers[name]))


def _node(data: st.DataObject, parts: Parts) -> None:
    nodes = _object(parts.network).get("nodes")
    if isinstance(nodes, list) and nodes:
        place = data.draw(st.integers(0, len(nodes) - 1))
        nodes[place] = mutate(data, copy.deepcopy(nodes[place]))


def _provenance(data: st.DataObject, parts: Parts) -> None:
    parts.provenance = mutate(data, parts.provenance)


def _metadata(data: st.DataObject, parts: Parts) -> None:
    parts.metadata = _object(mutate(data, parts.metadata))


def _entries(data: st.DataObject, parts: Parts) -> None:
    name = _tensor(data, parts)
    changed = mutate(data, dict(parts.entries[name]))
    parts.entries[name] = {**parts.entries[name], **_object(changed)}


def _numbers(data: st.DataObject, parts: Parts) -> None:
    name = _tensor(data, parts)
    content = bytearray(parts.tensors[name])
    for _ in range(data.draw(st.integers(1, 4))):
        if content:
            value = data.draw(
                st.one_of(st.sampled_from([0, 1, 127, 128, 255]), st.integers(0, 255))
            )
            content[data.draw(st.integers(0, len(content) - 1))] = value
    parts.tensors[name] = bytes(content)


def _size(data: st.DataObject, parts: Parts) -> None:
    name = _tensor(data, parts)
    content = parts.tensors[name]
    more = data.draw(st.integers(-9, 9))
    parts.tensors[name] = content[:more] if more < 0 else content + bytes(more)
    if data.draw(st.booleans()):
        parts.fit_shape(name)


def _names(data: st.DataObject, parts: Parts) -> None:
    """Remove a tensor, or let two change their places."""
    one, other = _tensor(data, parts), _tensor(data, parts)
    if one == other:
        del parts.entries[one]
    else:
        parts.tensors[one], parts.tensors[other] = parts.tensors[other], parts.tensors[one]
        parts.entries[one], parts.entries[other] = parts.entries[other], parts.entries[one]


def _tensor(data: st.DataObject, parts: Parts) -> str:
    if not parts.entries:
        parts.entries["parameters"] = {"dtype": "F32", "shape": [1]}
        parts.tensors["parameters"] = bytes(4)
    return data.draw(st.sampled_from(sorted(parts.entries)))


CHANGES: list[Callable[[st.DataObject, Parts], None]] = [
    *(_network, _layer, _layer, _node, _node, _numbers, _numbers),
    *(_size, _entries, _names, _metadata, _provenance),
]


def _damaged(data: st.DataObject, file: bytes) -> bytes:
    if data.draw(st.integers(0, 3)):
        return damaged(data, file)
    length = data.draw(st.sampled_from([0, 56, 1 << 26, 1 << 62, (1 << 64) - 8]))
    return length.to_bytes(8, "little") + file[8:]


def is_small(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Tell whether a network's values are few enough to be computed."""
    return max(map(math.prod, shapes.values())) < 1 << 12
