"""Where the time of a network goes: on the native kernels, ONNX Runtime and OpenVINO."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
from numpy.typing import NDArray

from apot_export.artifacts.onnx_model import openvino_model, serialise
from apot_export.network import CodedNetwork
from apot_export.network.oracle import require_images
from apot_export.runtimes.native import FastNetwork, compile_network

PROJECTION = {
    "onnxruntime": {"GatherElements", "Clip", "Mul", "Cast"},
    "openvino": {"Gather", "Convert", "Subgraph", "Clamp"},
}
"""Operators that only the projection of activations has, in the models for either runtime."""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Time of one step."""

    name: str
    """The node that it starts with."""
    seconds: float
    """Median of the whole step."""
    projection_seconds: float
    """What it takes less when it projects nothing onto levels; noise can make it negative."""


def profile(network: FastNetwork, image: NDArray[np.float32], *, rounds: int) -> list[StepTime]:
    """Time every step of a network with and without its projections, in turn.

    Args:
        network: A compiled network.
        image: One image, float32 [1, channels, height, width].
        rounds: Runs of each.

    Raises:
        DatasetError: The image does not have the network's input shape.
    """
    require_images(image, network.input_shape)
    pixels = np.ascontiguousarray(image[0], dtype=np.float32)
    # Steps without projections leave old levels behind: the same work, if not results.
    both = network, _without_projections(network)
    for each in both:
        each.run(image)
    times = np.empty((2, rounds, len(network.steps)))
    for turn in range(rounds):
        for kind, each in enumerate(both):
            for index in range(len(network.steps)):
                started = time.perf_counter()
                each.run_step(index, pixels)
                times[kind, turn, index] = time.perf_counter() - started
    whole, without = np.median(times, axis=1)
    return [
        StepTime(name=name, seconds=float(all_), projection_seconds=float(all_ - rest))
        for name, all_, rest in zip(network.steps, whole, without, strict=True)
    ]


def _without_projections(network: FastNetwork) -> FastNetwork:
    program = network._program  # noqa: SLF001 - a plan that no network has
    steps = type(program.steps).from_buffer_copy(program.steps)
    for step in steps:
        step.finish.projections = step.after.projections = 0
    return FastNetwork(
        network._network,  # noqa: SLF001
        dataclasses.replace(program, steps=steps),
        network._library,  # noqa: SLF001
        network.kernels,
        network.threads,
    )


def profile_onnxruntime(model: Path, images: NDArray[np.float32]) -> dict[str, float]:
    """Return milliseconds by operator: the smallest of ten runs of each node, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(model.with_suffix(".profile"))
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    for _ in range(10):
        session.run(None, {session.get_inputs()[0].name: images})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            nodes[event["name"], event["args"]["op_name"]].append(event["dur"] / 1e3)
    return _by_operator({key: min(times) for key, times in nodes.items()})


def profile_openvino(model: bytes, images: NDArray[np.float32]) -> dict[str, float]:
    """Return milliseconds by operator: the smallest of ten runs of each node, one thread."""
    core = openvino.Core()
    read = core.read_model(model)
    read.reshape(list(images.shape))
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": 1,
        "PERF_COUNT": True,
    }
    request = core.compile_model(read, "CPU", settings).create_infer_request()
    nodes: dict[tuple[str, str], float] = {}
    for _ in range(10):
        request.infer({0: images})
        for node in request.get_profiling_info():
            spent = node.real_time.total_seconds() * 1e3
            key = (node.node_name, node.node_type)
            nodes[key] = min(nodes.get(key, spent), spent)
    return _by_operator(nodes)


def _by_operator(nodes: dict[tuple[str, str], float]) -> dict[str, float]:
    total: defaultdict[str, float] = defaultdict(float)
    for (_, kind), milliseconds in nodes.items():
        total[kind] += milliseconds
    ordered = sorted(total.items(), key=lambda item: -item[1])
    return {kind: round(value, 3) for kind, value in ordered if value > 0}


def profiles(folder: Path, network: CodedNetwork) -> dict[str, Any]:
    """Profile two targets below a folder and the kernels; say what share projects activations."""
    images = np.random.default_rng(0).normal(size=(1, *network.input_shape)).astype(np.float32)
    flat = serialise(openvino_model(onnx.load(folder / "openvino" / "model.onnx")))
    found = {
        "onnxruntime": profile_onnxruntime(folder / "cpu" / "model.onnx", images),
        "openvino": profile_openvino(flat, images),
    }
    steps = profile(compile_network(network), images, rounds=10)
    whole = sum(step.seconds for step in steps)
    return {
        "native": {
            "milliseconds": {step.name: round(1e3 * step.seconds, 3) for step in steps},
            "projection": round(sum(step.projection_seconds for step in steps) / whole, 3),
        },
        **{
            name: {
                "milliseconds": kinds,
                "projection": round(
                    sum(value for kind, value in kinds.items() if kind in PROJECTION[name])
                    / sum(kinds.values()),
                    3,
                ),
            }
            for name, kinds in found.items()
        },
    }
