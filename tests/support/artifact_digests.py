"""Record the SHA-256 of every artifact, and compare another version of the code with the record.

    python -m tests.support.artifact_digests record build/digests.json
    python -m tests.support.artifact_digests compare build/digests.json digits random

Artifacts: every target, `--integer`, `--compress`, `--unsigned-zeros` and `--alpha-terms` of every
reference checkpoint and of the digits network, and the models and packed files of a dozen random
networks; or, where words follow, only those whose names hold one of them. A conversion that is
refused is recorded as its exit code. In an environment with other versions of PyTorch, numpy or
onnx, `compare` shows whether they write other bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums depend on the number of PyTorch's threads

from apot_export.artifacts.onnx_model import build_integer_model, build_model, serialise
from apot_export.artifacts.onnx_model.lowering import TARGETS
from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.errors import ApotExportError
from apot_export.integer import lower
from apot_export.network import CodedNetwork
from tests.support.commands import run
from tests.support.random_coded_networks import (
    Recipe,
    multi_bit_network,
    network_of_recipe,
    plane_network,
    random_network,
)

PROJECT = Path(__file__).resolve().parents[2]
REFERENCE = Path(os.environ.get("APOT_EXPORT_REFERENCE", PROJECT.parent / "shared"))
VARIANTS: dict[str, tuple[str, ...]] = {
    **{target: ("--target", target) for target in TARGETS},
    "integer": ("--integer",),
    "integer-pixels": ("--integer", "--fraction-bits", "14", "--input", "uint8"),
    "compress": ("--compress",),
    "unsigned-zeros": ("--unsigned-zeros",),
    "alpha-terms": ("--alpha-terms", "2"),
    "alpha-terms-integer": ("--alpha-terms", "3", "--integer"),
    "nonzero-grid": ("--grid", "nonzero", "--z", "2"),
    "layer-bits": ("--layer-bits", "layer2.*=3/4"),
}


def checkpoints() -> dict[str, Path]:
    """Return the checkpoints by the name of their record."""
    folder = REFERENCE / "checkpoints"
    if not folder.is_dir():
        raise SystemExit(f"There are no reference checkpoints in {folder}.")
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*.pth*")}
    digits = PROJECT / "examples/digits/res8_4bit/model_best.pth.tar"
    return dict(sorted({**found, "digits": digits}.items()))


def of_checkpoint(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and digest of every artifact of a checkpoint."""
    # Its keys are those of two families.
    family = ("--family", "first-release") if "first-release" in path.parts else ()
    for variant, options in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            export = Path(folder) / "export"
            stated = ("--trust-options", *family, *options)
            done = run("convert", path, "-o", export, *stated, APOT_EXPORT_DATA=folder)
            if done.exit_code:
                yield variant, f"exit {done.exit_code}"
                continue
            for file in sorted(export.iterdir()):
                content = file.read_bytes()
                if file.name == "manifest.json":  # the checkpoint's path depends on the machine
                    manifest = json.loads(content)
                    del manifest["checkpoint"]["path"]
                    manifest.pop("record", None)  # copied from the checkpoint, not computed
                    content = json.dumps(manifest, sort_keys=True).encode()
                yield f"{variant}/{file.name}", hashlib.sha256(content).hexdigest()


def networks() -> Iterator[tuple[str, CodedNetwork]]:
    """Yield random networks by name."""
    for seed in range(6):
        yield f"random {seed}", random_network(seed)
    for method in ("apot", "pot", "uniform"):
        recipe = Recipe(seed=3, method=method, weight_bits=3, groups=2, stride=2)
        yield f"recipe {method}", network_of_recipe(recipe)
    yield "planes", plane_network()
    yield "multi-bit", multi_bit_network(1, 2, position_major=True)
    yield "multi-bit, kernels", multi_bit_network(2, 3, position_major=False)


def of_network(network: CodedNetwork) -> Iterator[tuple[str, str]]:
    """Yield the name and digest of every artifact of a network."""
    for target in TARGETS:
        try:
            model = build_model(network, name="x", tool="x 1", metadata={}, target=target)
            content = serialise(model)
        except ApotExportError as error:
            yield target, type(error).__name__
        else:
            yield target, hashlib.sha256(content).hexdigest()
    for compress in (False, True):
        content = packed_file_bytes(network, {"tool": "x"}, compress=compress)
        yield f"packed, {compress=}", hashlib.sha256(content).hexdigest()
    try:
        integer = lower(network, fraction_bits=12)
        model = build_integer_model(network, integer, name="x", tool="x 1", metadata={})
        content = serialise(model) + packed_file_bytes(network, {"tool": "x"}, integer)
    except ApotExportError as error:
        yield "integer", type(error).__name__
    else:
        yield "integer", hashlib.sha256(content).hexdigest()


def digests(words: Sequence[str]) -> dict[str, str]:
    """Return the digest of every artifact by name, of all or those whose names hold a word."""
    found = {}
    for name, path in checkpoints().items():
        if named(name, words):
            found.update({f"{name}: {key}": digest for key, digest in of_checkpoint(path)})
    for name, network in networks():
        if named(name, words):
            found.update({f"{name}: {key}": digest for key, digest in of_network(network)})
    return found


def named(name: str, words: Sequence[str]) -> bool:
    """Tell whether a name holds one of the words, where there are any."""
    return not words or any(word in name for word in words)


def main() -> None:
    """Record digests, or compare them with a record."""
    match sys.argv[1:]:
        case ["record", file, *words]:
            found = digests(words)
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(json.dumps(found, indent=1), encoding="utf-8")
            print(f"{len(found)} digests recorded")
        case ["compare", file, *words]:
            recorded, found = json.loads(Path(file).read_text(encoding="utf-8")), digests(words)
            names = sorted(name for name in {*recorded, *found} if named(name, words))
            differing = [name for name in names if recorded.get(name) != found.get(name)]
            print("\n".join(differing))
            print(f"{len(differing)} of {len(names)} digests differ")
            sys.exit(bool(differing))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
