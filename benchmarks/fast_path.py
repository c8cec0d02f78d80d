"""Time the native kernels against ONNX Runtime, in turn, on one network.

    python -m benchmarks.fast_path EXPORT [--threads 1] [--batch 1] [--rounds 40] [-o JSON]

EXPORT is a folder that `apot-export convert` wrote. Every round runs each of them once: the plain
float twin of the network on ONNX Runtime, the export on ONNX Runtime, and the native kernels.
Ratios are medians over the rounds of (the float twin's time / this one's).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import apot_export
from apot_export.runtimes.native import FastNetwork, compile_network
from apot_export.runtimes.onnx_runtime import open_session
from benchmarks._float_model import float_model
from benchmarks._profile import profile

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
BASELINE = "ONNX Runtime, float32 twin"
_UNTIMED = 3


def in_turn(runs: dict[str, Run], images: NDArray[np.float32], rounds: int) -> dict[str, Any]:
    """Return the milliseconds of every run, and its ratio to the baseline."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(_UNTIMED + rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run(images)
            if number >= _UNTIMED:
                times[name].append(1e3 * (time.perf_counter() - started))
    results = {}
    for name, found in times.items():
        ratios = [base / own for base, own in zip(times[BASELINE], found, strict=True)]
        results[name] = {
            "median_ms": round(statistics.median(found), 2),
            "fastest_ms": round(min(found), 2),
            "ratio": round(statistics.median(ratios), 2),
            "ratio_of_fastest": round(min(times[BASELINE]) / min(found), 2),
            "images_per_second": round(1e3 * len(images) / statistics.median(found), 1),
        }
    return results


def shares(network: FastNetwork, image: NDArray[np.float32], rounds: int) -> dict[str, Any]:
    """Return the time of every step, and the share of projections in all of it."""
    steps = profile(network, image, rounds=rounds)
    whole = sum(step.seconds for step in steps)
    return {
        "steps_ms": {step.name: round(1e3 * step.seconds, 3) for step in steps},
        "sum_ms": round(1e3 * whole, 2),
        "projection_share": round(sum(step.projection_seconds for step in steps) / whole, 3),
    }


def machine() -> dict[str, Any]:
    """Return what the times depend on."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        lines = information.read_text(encoding="utf-8").splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    """Time everything and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--all-kernels", action="store_true", help="also the slower kernels")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    network = apot_export.load_packed(arguments.export).network
    images = np.random.default_rng(0).normal(size=(arguments.batch, *network.input_shape))
    threads, pixels = arguments.threads, images.astype(np.float32)
    started = time.perf_counter()
    fast = compile_network(network, threads=threads)
    prepared = time.perf_counter() - started
    kernels = fast._library.kernels if arguments.all_kernels else (fast.kernels,)  # noqa: SLF001
    portable = (arguments.export / "model.onnx").read_bytes()
    runs: dict[str, Run] = {
        BASELINE: open_session(float_model(network), "cpu", threads=threads).run,
        "ONNX Runtime, the export": open_session(portable, "cpu", threads=threads).run,
    }
    for name in kernels:
        runs[f"native, {name}"] = compile_network(network, threads=threads, kernels=name).run
    result = {
        "network": str(arguments.export.name),
        "machine": machine(),
        "threads": threads,
        "batch": arguments.batch,
        "rounds": arguments.rounds,
        "prepare_seconds": round(prepared, 2),
        "results": in_turn(runs, pixels, arguments.rounds),
        "profile": shares(fast, pixels[:1], arguments.rounds),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
