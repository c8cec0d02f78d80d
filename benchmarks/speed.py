"""Time exports against their peers, interleaved, and write the figures down as JSON.

    python benchmarks/speed.py CHECKPOINT [--batch 1] [--threads 1] [--rounds 20] [--profile]
    python benchmarks/speed.py resnet50             # a network of random weights

Contestants: this tool's targets; ONNX Runtime and OpenVINO with the same network in float32 and in
the usual uniform int8 (QDQ, uint8 activations, int8 weights); the module of the training code,
exported naively by torch.onnx and run by PyTorch itself. In every round each runs once (the slow
ones in the first rounds only); a ratio is the median over rounds of float32's time on ONNX Runtime
divided by this one's. Needs the optional packages openvino and sympy, and no other work on the
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
import torchvision
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from apot_export.artifacts.onnx_model import openvino_model, serialise
from apot_export.artifacts.onnx_model.lowering import TARGETS
from apot_export.conversion.convert import convert
from apot_export.original.architectures.resnet import ResNet
from apot_export.original.choices import Choices
from apot_export.original.published import load_original

BASELINE = "ONNX Runtime, float32"
SHAPE = (3, 224, 224)
BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
SLOW = 5.0
"""How many times slower than the baseline a contestant is that runs in few rounds."""
PROJECTION = {
    "onnxruntime": {"GatherElements", "Clip", "Mul", "Cast"},
    "openvino": {"Gather", "Convert", "Subgraph", "Clamp"},
}
"""Operators that only the projection of activations has, in the models for either runtime."""

Run = Callable[[np.ndarray[Any, Any]], Any]


# --- contestants ----------------------------------------------------------------------------------


def random_checkpoint(name: str, path: Path) -> None:
    """Write a 4-bit checkpoint of random weights, thresholds and calibrated batch-norm."""
    torch.manual_seed(0)
    module = ResNet(blocks=BLOCKS[name], bottleneck=True, width=64, image=SHAPE, classes=1000)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # average over all batches
    with torch.no_grad():
        module(torch.randn(2, *SHAPE))
    state = {f"module.{key}": value for key, value in module.state_dict().items()}
    for key, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d) and key != "conv1":
            state[f"module.{key}.weight_alpha"] = torch.tensor(2.0)
            state[f"module.{key}.act_alpha"] = torch.tensor(1.5)
    torch.save({"epoch": 1, "state_dict": state}, path)


class Noise(CalibrationDataReader):  # type: ignore[misc]
    """Two random images."""

    def __init__(self) -> None:
        self.left = 2

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """Return the next image; None after the last."""
        self.left -= 1
        return None if self.left < 0 else {"images": images_of(1, self.left)}


def images_of(batch: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return random images, float32 [batch, 3, 224, 224]."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(batch, *SHAPE)).astype(np.float32)


def export_module(module: nn.Module, path: Path) -> None:
    """Export a module as torch.onnx does by tracing."""
    torch.onnx.export(
        module.eval(),
        (torch.zeros(1, *SHAPE),),
        str(path),
        dynamo=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_axes={"images": {0: "batch"}},
        opset_version=17,
    )


def in_onnxruntime(model: bytes | Path, threads: int) -> Run:
    """Return a runner of a model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


def in_openvino(model: bytes | Path, threads: int, batch: int, *, profile: bool = False) -> Any:
    """Return an inference request of a model, in float32 where it is not integer."""
    core = openvino.Core()
    read = core.read_model(model if isinstance(model, bytes) else str(model))
    read.reshape([batch, *SHAPE])
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERF_COUNT": profile,
    }
    return core.compile_model(read, "CPU", settings).create_infer_request()


def requests(model: bytes | Path, threads: int, batch: int) -> Run:
    """Return a runner of a model in OpenVINO."""
    request = in_openvino(model, threads, batch)
    return lambda images: request.infer({0: images})


def contestants(
    checkpoint: Path, architecture: str, folder: Path, batch: int, threads: int
) -> dict[str, Run]:
    """Build every contestant."""
    torch.manual_seed(0)
    float32, prepared, int8 = (folder / f"{name}.onnx" for name in ("float32", "prepared", "int8"))
    export_module(getattr(torchvision.models, architecture)(weights=None), float32)
    quant_pre_process(str(float32), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(int8),
        Noise(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    naive = folder / "naive.onnx"
    module = load_original(checkpoint, Choices(bits=4)).module.eval()
    export_module(module, naive)

    def by_torch(images: np.ndarray[Any, Any]) -> None:
        with torch.inference_mode():
            module(torch.from_numpy(images))

    runs: dict[str, Run] = {
        BASELINE: in_onnxruntime(float32, threads),
        "ONNX Runtime, uniform int8 (QDQ)": in_onnxruntime(int8, threads),
        "OpenVINO, float32": requests(float32, threads, batch),
        "OpenVINO, uniform int8": requests(int8, threads, batch),
        "PyTorch, the original": by_torch,
        "ONNX Runtime, naive ArgMin export": in_onnxruntime(naive, threads),
    }
    for target in TARGETS:
        model = convert(checkpoint, folder / target, bits=4, target=target).path / "model.onnx"
        if target == "openvino":
            runs["apot-export --target openvino, OpenVINO"] = requests(
                serialise(openvino_model(onnx.load(model))), threads, batch
            )
        elif target != "cuda":
            runs[f"apot-export --target {target}, ONNX Runtime"] = in_onnxruntime(model, threads)
    return runs


# --- timing ---------------------------------------------------------------------------------------


def race(
    runs: dict[str, Run], images: np.ndarray[Any, Any], rounds: int, slow_rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of every contestant's runs, in the order of rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    warm: dict[str, float] = {}
    for name, run in runs.items():
        run(images)
        started = time.perf_counter()
        run(images)
        warm[name] = time.perf_counter() - started
    for done in range(rounds):
        for name, run in runs.items():
            if done >= slow_rounds and warm[name] > SLOW * warm[BASELINE]:
                continue
            started = time.perf_counter()
            run(images)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def summary(seconds: dict[str, list[float]], batch: int) -> dict[str, dict[str, float]]:
    """Return medians, and ratios to the baseline of the same rounds."""
    baseline = seconds[BASELINE]
    return {
        name: {
            "median_milliseconds": round(1e3 * statistics.median(times), 3),
            "smallest_milliseconds": round(1e3 * min(times), 3),
            "images_per_second": round(batch / statistics.median(times), 1),
            "ratio": round(
                statistics.median(b / t for b, t in zip(baseline, times, strict=False)), 3
            ),
            "rounds": len(times),
        }
        for name, times in seconds.items()
    }


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    facts: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {
            library.__name__: library.__version__
            for library in (onnxruntime, openvino, torch, onnx)
        },
    }
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return facts
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    values = {key.strip(): value.strip() for key, value in found.items()}
    flags = set((values.get("flags") or values.get("Features", "")).split())
    facts["processor"] = values.get("model name", facts["processor"])
    facts["instructions"] = sorted(
        flags & {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"}
    )
    return facts


# --- where the time goes --------------------------------------------------------------------------


def profile_onnxruntime(model: Path, images: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return milliseconds by operator: the smallest of ten runs of each node, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(model.with_suffix(".profile"))
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    for _ in range(10):
        session.run(None, {"images": images})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            nodes[event["name"], event["args"]["op_name"]].append(event["dur"] / 1e3)
    return _by_operator({key: min(times) for key, times in nodes.items()})


def profile_openvino(model: bytes, images: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return milliseconds by operator: the smallest of ten runs of each node, one thread."""
    request = in_openvino(model, 1, len(images), profile=True)
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


def profiles(folder: Path) -> dict[str, Any]:
    """Profile the two fast targets; say how much of the time projects activations."""
    images = images_of(1)
    flat = serialise(openvino_model(onnx.load(folder / "openvino" / "model.onnx")))
    found = {
        "onnxruntime": profile_onnxruntime(folder / "cpu" / "model.onnx", images),
        "openvino": profile_openvino(flat, images),
    }
    return {
        name: {
            "milliseconds": kinds,
            "projection": round(
                sum(value for kind, value in kinds.items() if kind in PROJECTION[name])
                / sum(kinds.values()),
                3,
            ),
        }
        for name, kinds in found.items()
    }


def main() -> None:
    """Build, race, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help=f"a ResNet-18 checkpoint, or one of {list(BLOCKS)}")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--slow-rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="also show where the time goes")
    parser.add_argument("--output", type=Path, help="file for the JSON that is printed")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    onnxruntime.set_default_logger_severity(3)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint, architecture = Path(arguments.checkpoint), "resnet18"
        if arguments.checkpoint in BLOCKS:
            architecture = arguments.checkpoint
            checkpoint = folder / f"{architecture}_4bit.pth.tar"
            random_checkpoint(architecture, checkpoint)
        runs = contestants(checkpoint, architecture, folder, arguments.batch, arguments.threads)
        facts = machine()
        images = images_of(arguments.batch)
        seconds = race(runs, images, arguments.rounds, arguments.slow_rounds)
        result: dict[str, Any] = {
            "machine": facts,
            "network": architecture,
            "batch": arguments.batch,
            "threads": arguments.threads,
            "contestants": summary(seconds, arguments.batch),
        }
        if arguments.profile:
            result["profile"] = profiles(folder)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
