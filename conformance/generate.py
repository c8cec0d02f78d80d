"""Write the files of the kit: the same bytes, whenever and wherever it runs.

    python conformance/generate.py [--output FOLDER]

The packed files are put together by hand (`files`), not by the writer of apot_export; the expected
values are those of its reference computation.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from apot_export.artifacts.packed import PackedNetwork, load_packed  # noqa: E402
from apot_export.network import CodedLayer, PlaneLayer, oracle  # noqa: E402
from conformance.files import dumps  # noqa: E402
from conformance.invalid_operations import INVALID  # noqa: E402
from conformance.operations import VALID  # noqa: E402
from conformance.programs import PIXELS, PROGRAMS, logits  # noqa: E402

FOLDERS = ("valid", "invalid", "programs")
SUFFIX = ".apot.safetensors"


def words(numbers: NDArray[Any]) -> str:
    """Write F32 numbers as 32-bit hexadecimal numbers, as FORMAT.md has them."""
    return " ".join(f"{word:08x}" for word in numbers.astype("<f4").view("<u4").ravel().tolist())


def layers(network: PackedNetwork) -> list[Any]:
    """Return what a reader finds in every layer."""
    found = []
    for name, layer in sorted(network.layers.items()):
        kind = "planes" if isinstance(layer, PlaneLayer) else "float"
        entry = {"name": name, "kind": kind, "shape": list(layer.shape)}
        if isinstance(layer, CodedLayer):
            entry["kind"] = "coded"
            entry["codes"] = layer.codes.ravel().tolist()
            entry["levels"] = layer.levels().ravel().tolist()
        found.append({**entry, "weights": words(layer.weights())})
    return found


def run(network: PackedNetwork, images: NDArray[np.float32]) -> tuple[Any, Any, Any]:
    """Return the levels, the accumulators and the outputs that a batch has."""
    seen: dict[str, NDArray[Any]] = {network.network.input: images}
    oracle.run(network.network, images, observe=seen.__setitem__)
    integers: list[Any] = []
    inexact: set[str] = set()
    for node in network.network.nodes:
        if seen[node.name].dtype != np.float32:
            numbers = seen[node.name].ravel().tolist()
            integers.append({**_entry(node.name, seen), "integers": numbers})
        function = getattr(node.operation, "function", "abs")
        if function not in {"abs", "mean", "max"} or inexact & {*node.inputs}:
            inexact.add(node.name)
    outputs = [
        {**_entry(name, seen), "exact": name not in inexact, "numbers": words(seen[name])}
        for name in (network.network.output, *network.network.further_outputs)
    ]
    return {**_entry(network.network.input, seen), "numbers": words(images)}, integers, outputs


def _entry(name: str, seen: dict[str, NDArray[Any]]) -> dict[str, Any]:
    return {"name": name, "shape": list(seen[name].shape)}


def expected(path: Path, about: str, images: list[Any]) -> str:
    """Return the JSON that states what a valid file holds and computes."""
    network = load_packed(path)
    given, integers, outputs = run(network, np.array(images, dtype=np.float32))
    content = {
        "about": about,
        "layers": layers(network),
        "input": given,
        "integers": integers,
        "outputs": outputs,
    }
    return json.dumps(content, separators=(",", ":")) + "\n"


def kit() -> dict[str, bytes]:
    """Return the content of every file, by its path in the folder."""
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in VALID.items():
            parts = make()
            path = Path(folder) / f"{name}{SUFFIX}"
            path.write_bytes(parts.sealed())
            found[f"valid/{path.name}"] = path.read_bytes()
            about = str(make.__doc__)
            found[f"valid/{name}.json"] = expected(path, about, parts.images).encode()
    for name, file in INVALID.items():
        found[f"invalid/{name}{SUFFIX}"] = file.content
    for name, content in PROGRAMS.items():
        found[f"programs/{name}{SUFFIX}"] = content
    stated = {"image": {"shape": [1, 4, 4], "integers": PIXELS}, "logits": logits()}
    found["programs/sound.json"] = (dumps(stated) + "\n").encode()
    return found


def main() -> None:
    """Write all files, and remove those that are no longer of the kit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER)
    output = parser.parse_args().output
    files = kit()
    for name in FOLDERS:
        (output / name).mkdir(parents=True, exist_ok=True)
        for path in (output / name).iterdir():
            if f"{name}/{path.name}" not in files:
                path.unlink()
    for name, content in files.items():
        (output / name).write_bytes(content)
    print(f"{len(files)} files, {sum(map(len, files.values()))} bytes, in {output}")


if __name__ == "__main__":
    main()
