"""Check and time exports on a GPU, for docs/gpu.md: one command, JSON out.

    python benchmarks/gpu.py EXPORT... [--data FOLDER] [--limit N] [--rounds 30] [--output FILE]

For each export (of any target): `verify --device cuda`, with the accumulators of ONNX Runtime on
CUDA against the oracle; the integer network's bits on CUDA, where there is one; and, where the
model's metadata allow TF32, a race of sessions with and without it, and the accumulators with it.
Exit status 1 if a verdict is FAIL or an accumulator differs. `--device cpu` tries the script where
there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from apot_export.artifacts.directory import INTEGER_MODEL, ONNX_MODEL, read_manifest
from apot_export.artifacts.onnx_model.probe import integers_as_such, tf32_exact, with_outputs
from apot_export.artifacts.packed import load_packed
from apot_export.datasets import Dataset, open_dataset
from apot_export.network import CodedNetwork
from apot_export.network.comparison import compare_oracle
from apot_export.original import families
from apot_export.runtimes.onnx_runtime import Session, open_session
from apot_export.verification import verify

ORACLE_IMAGES = 4


def images_of(network: CodedNetwork, preprocessing: str, data: Path | None, count: int) -> Dataset:
    """Open the images that fit a network."""
    shape, classes = network.input_shape, network.shapes[network.output][0]
    dataset = open_dataset(
        None, input_shape=shape, classes=classes, data=data, preprocessing=preprocessing
    )
    return dataset.sample(count)


def race(sessions: Mapping[str, Session], batch: Any, rounds: int) -> dict[str, float]:
    """Return images per second of each session, run in turn: medians over the rounds."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(rounds + 3):
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run(batch)
            if turn >= 3:  # the first calls allocate and choose algorithms
                times[name].append(time.perf_counter() - started)
    return {name: len(batch) / statistics.median(found) for name, found in times.items()}


def tf32_facts(export: Path, arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Compare and time sessions with and without TF32; None where the model does not allow it."""
    model = onnx.load(export / ONNX_MODEL)
    if not tf32_exact(model):
        return None
    network = load_packed(export).network
    family = families.by_name(read_manifest(export)["family"])
    images = images_of(network, family.preprocessing, arguments.data, arguments.batch_size)
    batch, _ = next(images.batches(arguments.batch_size))
    looked_at = open_session(with_outputs(model), arguments.device, tf32=True)
    values = integers_as_such(model, looked_at.run_all(batch[:ORACLE_IMAGES]))
    found = compare_oracle(network, batch[:ORACLE_IMAGES], values)
    sessions = {
        name: open_session(model.SerializeToString(), arguments.device, tf32=tf32)
        for name, tf32 in (("use_tf32=0", False), ("use_tf32=1", True))
    }
    return {
        "accumulators": found.compared,
        "mismatches": found.mismatches,
        "batch": len(batch),
        "images_per_second": race(sessions, batch, arguments.rounds),
    }


def facts(export: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Check and time one export."""
    backends = "numpy,ort-cpu,ort-cuda,c" if arguments.device == "cuda" else "numpy,ort-cpu,c"
    report = verify(
        export,
        data=arguments.data,
        device=arguments.device,
        limit=arguments.limit,
        batch_size=arguments.batch_size,
        backends=backends if (export / INTEGER_MODEL).is_file() else None,
        attach=False,
    )
    return {**report.to_json(), "tf32": tf32_facts(export, arguments)}


def main() -> None:
    """Check and time all exports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exports", nargs="+", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    exports = {str(export): facts(export, arguments) for export in arguments.exports}
    found = {
        "machine": {
            "gpu": torch.cuda.get_device_name() if arguments.device == "cuda" else None,
            "cuda": torch.version.cuda,
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "command": " ".join(sys.argv),
        "exports": exports,
    }
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n", encoding="utf-8")
    wrong = [
        name
        for name, export in exports.items()
        if export["verdict"] != "PASS" or (export["tf32"] or {}).get("mismatches")
    ]
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
