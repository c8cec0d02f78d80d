"""Small packed files that ask for much memory, all checksums right; and what readers take.

    python -m tests.support.hungry_files FOLDER

builds them, lets every reader read and run each in a process of its own, and prints a line of JSON
for each: the reader, the error or null, megabytes beyond those before, and seconds.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export import downstream
from apot_export.artifacts.packed import load_packed
from apot_export.artifacts.packed._container import write
from apot_export.errors import PackedFileError
from conformance.files import seal, unseal

Json = dict[str, Any]
BOOK: Json = {"tables": [[0, 1]], "denominator": 1, "signed": False}


def file_of(
    nodes: list[Json],
    layers: Json | None = None,
    tensors: dict[str, NDArray[Any]] | None = None,
    image: tuple[int, int, int] = (1, 8, 8),
    book: Json = BOOK,
) -> bytes:
    """Write a packed file of some nodes, one after the other, and of an average after them."""
    named = [{"name": f"node{index}", **node} for index, node in enumerate(nodes)]
    network = {
        "input": {"name": "image", "shape": list(image)},
        "output": named[-1]["name"],
        "codebooks": [book] if layers else [],
        "layers": layers or {},
        "nodes": named,
    }
    metadata = {"format_version": "3", "network": json.dumps(network), "provenance": "{}"}
    return write(metadata, tensors or {"integer": np.zeros(64, np.uint8)})


def sign_planes(groups: int) -> bytes:
    """Return a file of groups of 2^28 weights that have no sign vectors."""
    size = 1 << 28
    layer = {"kind": "planes", "shape": [size, groups], "group_size": size, "count_bits": 1}
    return file_of(
        [{"operation": "Flatten"}, {"operation": "Linear", "layer": "a"}],
        {"a": {**layer, "coordinates": [0, 0]}},
        {"a.planes": np.zeros(-(-groups // 8), np.uint8)},
        (1, 1, groups),
    )


def entropy_coded(size: int) -> bytes:
    """Return a file of a stream of so many bytes, all of whose codes are 0, 1024 codes a byte."""
    lanes = size // 4 - 1
    stream = np.concatenate(
        [
            np.array([16, 0], "<u2").view(np.uint8),
            np.full(lanes, 1 << 16, "<u4").view(np.uint8),
        ]
    )
    outputs = stream.size
    layer = {"kind": "coded", "shape": [outputs, 1024], "codebook": 0, "values": [0, 2]}
    return file_of(
        [{"operation": "Flatten"}, {"operation": "Linear", "layer": "a"}],
        {"a": {**layer, "step": 1.0, "storage": {"entropy": [4, lanes]}}},
        {"parameters": np.array([0, 1], "<f4"), "a.codes": stream},
        (1, 1, 1024),
    )


def activation_tables(count: int) -> bytes:
    """Return a file of layers whose activation tables have 2^24 entries each."""
    activation = {"codebook": 0, "alpha": 1.0}
    names = [f"a{index}" for index in range(count)]
    runs = {name: [2 * index, 2 * index + 2] for index, name in enumerate(names)}
    coded = {"kind": "coded", "shape": [1, 1, 1, 1], "codebook": 0, "step": 1.0}
    nodes: list[Json] = []
    for name in names:
        nodes += [
            {"operation": "QuantizeActivation", "layer": name},
            {"operation": "Convolution", "layer": name},
            {"operation": "ScaleBias"},
        ]
    return file_of(
        nodes,
        {name: {**coded, "values": runs[name], "activation": activation} for name in names},
        {
            "parameters": np.tile(np.array([0, 1], "<f4"), count),
            **{f"{name}.codes": np.ones(1, np.uint8) for name in names},
        },
        book={**BOOK, "denominator": 1 << 23},
    )


def with_provenance(text: str) -> bytes:
    """Return a small file with another provenance."""
    header, data = unseal(file_of([{"operation": "Relu"}]))
    header["__metadata__"]["provenance"] = text
    return seal(header, data)


def dilated() -> bytes:
    """Return a file of a convolution whose windows need an image of 2^31 numbers."""
    reach = 1 << 15
    convolution = {
        "operation": "Convolution",
        "layer": "a",
        "padding": [reach, reach],
        "dilation": [reach, reach],
    }
    return file_of(
        [convolution], {"a": {"kind": "float"}}, {"a.weight": np.ones((1, 1, 3, 3), "<f4")}
    )


def doubled(times: int) -> bytes:
    """Return a file of concatenations of a value with itself."""
    names = ["image", *(f"node{index}" for index in range(times))]
    return file_of([{"operation": "Concat", "inputs": [name, name]} for name in names[:-1]])


def strided(size: int) -> bytes:
    """Return a file of a convolution with a small result and a large padded input."""
    pair = [size, size]
    return file_of(
        [{"operation": "Convolution", "layer": "a", "padding": pair, "stride": pair}],
        {"a": {"kind": "float"}},
        {"a.weight": np.ones((1, 1, 1, 1), "<f4")},
    )


def unread(count: int) -> bytes:
    """Return a file of values of 2^24 numbers that all but the last are never read."""
    pad = {"operation": "Upsample", "scale": [512, 512], "inputs": ["image"]}
    return file_of([pad] * count)


HUNGRY: dict[str, Callable[[], bytes]] = {
    "sign planes of 2^31 weights": lambda: sign_planes(1 << 3),
    "sign planes of 2^40 weights": lambda: sign_planes(1 << 12),
    "entropy-coded stream of 1 MB": lambda: entropy_coded(1 << 20),
    "entropy-coded stream of 4 MB": lambda: entropy_coded(1 << 22),
    "provenance of many members": lambda: with_provenance(
        "{" + ",".join(f'"{index:x}":0' for index in range(2_000_000)) + "}"
    ),
    "provenance of many arrays": lambda: with_provenance(
        '{"a":[' + ",".join(["[]"] * 2_000_000) + "]}"
    ),
    "provenance 900 arrays deep": lambda: with_provenance('{"a":' + "[" * 900 + "]" * 900 + "}"),
    "provenance 100000 arrays deep": lambda: with_provenance(
        '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
    ),
    "twenty activation tables of 2^24 entries": lambda: activation_tables(20),
    "a pad of 2^31": lambda: file_of(
        [{"operation": "Pad", "before": [0, 0, 0], "after": [0, 0, (1 << 31) - 9]}], image=(1, 1, 8)
    ),
    "a dilation that needs 2^32 pixels": dilated,
    "a stride over 2^32 pixels": lambda: strided(1 << 15),
    "an upsampling by 2^25": lambda: file_of(
        [{"operation": "Upsample", "scale": [1 << 12, 1 << 13]}, {"operation": "GlobalAveragePool"}]
    ),
    "a shape of 60000 axes": lambda: file_of(
        [{"operation": "Reshape", "shape": [(1 << 31) - 1] * 60_000}]
    ),
    "doubling concatenations": lambda: doubled(24),
    "an image of 2^30 pixels": lambda: file_of(
        [{"operation": "GlobalAveragePool"}], image=(1, 1 << 15, 1 << 15)
    ),
}
"""What asks for more than it may, by what it is."""

LARGE: dict[str, Callable[[], bytes]] = {
    "an activation table of 2^24 entries": lambda: activation_tables(1),
    "ten values that nothing reads": lambda: unread(10),
}
"""What asks for much and may."""


def through_product(path: Path, *, lazy: bool = False) -> None:
    """Read a file with the product's reader, decode everything, and run it."""
    network = load_packed(path, lazy=lazy)
    _ = [layer.weights() for layer in network.layers.values()]
    network.run(np.zeros((1, *network.network.input_shape), np.float32))


def through_downstream(path: Path) -> None:
    """Read a file with the stand-alone reader, and run it."""
    network = downstream.load(path)
    _ = [layer.weights() for layer in network.layers.values()]
    network.run(np.zeros((1, *network.input_shape), np.float32))


READERS: dict[str, Callable[[Path], None]] = {
    "load_packed": through_product,
    "load_packed, lazy": partial(through_product, lazy=True),
    "downstream": through_downstream,
}


def peak_kilobytes() -> int:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured(read: Callable[[Path], None], path: Path) -> Json:
    """Run a reader in a process of its own; return its error, megabytes and seconds."""
    receiving, sending = os.pipe()
    if not os.fork():
        before, started, error = peak_kilobytes(), time.perf_counter(), None
        try:
            read(path)
        except (PackedFileError, ValueError) as found:
            error = str(found)
        megabytes = (peak_kilobytes() - before) / 1024
        record = {"error": error, "megabytes": megabytes, "seconds": time.perf_counter() - started}
        os.write(sending, json.dumps(record).encode())
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        content = pipe.read()
    os.wait()
    return dict(json.loads(content or b'{"error": "crash", "megabytes": 1e9, "seconds": 0}'))


def main() -> None:
    """Print what every reader makes of every file."""
    path = Path(sys.argv[1]) / "hungry.apot.safetensors"
    for name, make in {**HUNGRY, **LARGE}.items():
        path.write_bytes(make())
        for reader, read in READERS.items():
            record = {"name": name, "reader": reader, **measured(read, path)}
            sys.stdout.write(json.dumps(record) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
