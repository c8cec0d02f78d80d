"""Show that an integer network gives the same bits on every backend, however it is run.

    python benchmarks/integer_identity.py EXPORT [--dataset NAME --data FOLDER] [--limit N]

EXPORT is a folder that `convert --integer` wrote. Its logits by numpy are compared with those of
ONNX Runtime (batches of 1, 7 and 100, graph optimizations on and off, 1 and 2 threads) and of the C
interpreter (with and without multiplication). Prints JSON; exit status 1 if a bit differs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from apot_export.artifacts.directory import INTEGER_MODEL, PACKED_MODEL, read_manifest
from apot_export.artifacts.packed import load_packed
from apot_export.artifacts.recorded import integer_of_manifest
from apot_export.datasets import kind_by_name, kind_of
from apot_export.integer import run_integer
from apot_export.integer.oracle import fixed_point
from apot_export.original import families
from apot_export.runtimes.interpreter import (
    WITHOUT_MULTIPLICATION,
    OpenProgram,
    compile_interpreter,
    load_interpreter,
)


def onnx_logits(
    model: bytes, images: NDArray[Any], batch: int, threads: int, *, optimized: bool
) -> NDArray[np.int64]:
    """Run the ONNX model in batches."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    )
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    parts = np.split(images, range(batch, len(images), batch))
    return np.concatenate([session.run(["logits"], {"images": part})[0] for part in parts])


def main() -> None:
    """Compare all ways of running."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("--dataset")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    manifest = read_manifest(arguments.export)
    coded = load_packed(arguments.export).network
    network = integer_of_manifest(manifest, coded)
    classes = coded.shapes[coded.output][0]
    kind = (
        kind_by_name(arguments.dataset)
        if arguments.dataset
        else kind_of(None, coded.input_shape, classes)
    )
    preprocessing = families.by_name(manifest["family"]).preprocessing
    dataset = kind.open(arguments.data, preprocessing).first(arguments.limit)
    images, labels = next(dataset.batches(len(dataset)))
    inputs = images if network.pixels is None else network.pixels.of_images(images)
    started = time.perf_counter()
    expected = np.concatenate(
        [run_integer(network, part) for part in np.split(inputs, range(50, len(inputs), 50))]
    )
    rows: dict[str, dict[str, float]] = {
        "numpy": {
            "differing": 0,
            "images_per_second": len(inputs) / (time.perf_counter() - started),
        }
    }

    def compare(name: str, logits: NDArray[np.int64], seconds: float) -> None:
        differing = int((logits != expected).any(axis=1).sum())
        rows[name] = {"differing": differing, "images_per_second": len(inputs) / seconds}
        print(f"{name}: {differing} of {len(inputs)} images differ", file=sys.stderr)

    model = (arguments.export / INTEGER_MODEL).read_bytes()
    for batch in (1, 7, 100):
        for optimized in (True, False):
            for threads in (1, 2):
                started = time.perf_counter()
                logits = onnx_logits(model, inputs, batch, threads, optimized=optimized)
                name = f"onnxruntime, batch {batch}, {threads} threads, " + (
                    "optimized" if optimized else "not optimized"
                )
                compare(name, logits, time.perf_counter() - started)
    packed = (arguments.export / PACKED_MODEL).read_bytes()
    numbers = fixed_point(network, inputs)
    builds = {"C": ("-O3",), "C without multiplication": WITHOUT_MULTIPLICATION}
    for name, flags in builds.items():
        with tempfile.TemporaryDirectory() as folder:
            interpreter = load_interpreter(compile_interpreter(Path(folder), flags))
            program = OpenProgram(packed, interpreter)
        started = time.perf_counter()
        compare(name, program.run(numbers), time.perf_counter() - started)
        rows[name]["workspace_bytes"] = program.workspace_bytes
    result = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
        },
        "export": arguments.export.name,
        "images": len(inputs),
        "fraction_bits": network.fraction_bits,
        "input_bits": network.input_bits,
        "top1": float((expected.argmax(axis=1) == labels).mean()),
        "runs": rows,
    }
    print(json.dumps(result, indent=2))
    sys.exit(any(row["differing"] for row in rows.values()))


if __name__ == "__main__":
    main()
