"""Race exports against their peers, interleaved: a table, and JSON.

    python -m benchmarks.peers EXPORT... [--batches 1,32] [--threads 1,2] [--rounds 20]
        [--litert FILE.tflite] [--clock wall] [--profile] [--json FILE]

EXPORT is an export directory, or `resnet50`, `resnet101`, `resnet152`: networks of random weights.
Contestants: the network's plain float twin on ONNX Runtime, which is the baseline, and on OpenVINO;
that twin in the usual uniform int8 (QDQ, uint8 activations, int8 weights) on both; a TFLite file of
the same network in LiteRT; this tool's targets for CPUs, and the native kernels. Every round runs
each once; a ratio is the median over rounds of the baseline's time divided by this one's.

The native kernels are those that `APOT_EXPORT_KERNELS` names, else the fastest of this processor.

`--clock processor` measures the process's time on all processors instead: for one thread, on a
machine that others use, too. Needs the extra `peers` (OpenVINO, LiteRT) and, for wall time, no
other work on the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich.console import Console
from rich.table import Table
from torch import nn

from apot_export.artifacts.onnx_model import openvino_model, serialise
from apot_export.artifacts.packed import load_packed
from apot_export.conversion.convert import convert
from apot_export.conversion.convert_export import convert_export
from apot_export.network import CodedNetwork
from apot_export.original.architectures.resnet import ResNet
from apot_export.original.choices import Choices
from apot_export.original.published import load_original
from apot_export.runtimes.native import compile_network
from apot_export.runtimes.native._library import default_library
from benchmarks._facts import interleaved, machine, median_ratio, processor_class
from benchmarks._float_model import float_model
from benchmarks._profile import profiles

Floats = NDArray[np.float32]
BASELINE = "ONNX Runtime, float32"
BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
IMAGE = (3, 224, 224)
PACKAGES = ("onnxruntime-gpu", "onnxruntime", "openvino", "ai-edge-litert")
FEWEST_ROUNDS = 3
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}

Model = bytes | Path
Run = Callable[[Floats], Any]
Maker = Callable[[int, int], Run]
"""From images in a batch and threads to what runs a batch."""


# --- contestants ----------------------------------------------------------------------------------


def random_export(name: str, folder: Path) -> Path:
    """Convert a 4-bit checkpoint of random weights and thresholds, its batch-norm calibrated."""
    torch.manual_seed(0)
    module = ResNet(blocks=BLOCKS[name], bottleneck=True, width=64, image=IMAGE, classes=1000)
    state = module.state_dict()
    for key, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d) and key != "conv1":
            state[f"{key}.weight_alpha"] = torch.tensor(2.0)
            state[f"{key}.act_alpha"] = torch.tensor(1.5)
    path = folder / f"{name}_4bit.pth.tar"
    _save(state, path)
    # Of the quantized network: its weights have another scale than those of the plain one.
    original = load_original(path, Choices(bits=4)).module.train()
    for layer in original.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # average over all batches
    with torch.no_grad():
        original(torch.randn(2, *IMAGE))
    state.update({key: value for key, value in original.state_dict().items() if "running" in key})
    _save(state, path)
    return convert(path, folder / name, bits=4).path


def _save(state: dict[str, torch.Tensor], path: Path) -> None:
    named = {f"module.{key}": value for key, value in state.items()}
    torch.save({"epoch": 1, "state_dict": named}, path)


class Noise(CalibrationDataReader):  # type: ignore[misc]
    """Two random images."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self._batches: Iterator[dict[str, Floats]] = iter(
            [{name: noise(1, shape, seed)} for seed in range(2)]
        )

    def get_next(self) -> dict[str, Floats] | None:
        """Return the next image; None after the last."""
        return next(self._batches, None)


def noise(batch: int, shape: tuple[int, ...], seed: int = 0) -> Floats:
    """Return random images."""
    return np.random.default_rng(seed).normal(size=(batch, *shape)).astype(np.float32)


def quantized(twin: bytes, network: CodedNetwork, folder: Path) -> Path:
    """Return the float twin in uniform int8, as ONNX Runtime's own tools make it."""
    given, prepared, int8 = (folder / f"{name}.onnx" for name in ("twin", "prepared", "int8"))
    given.write_bytes(twin)
    quant_pre_process(str(given), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(int8),
        Noise(network.input, network.input_shape),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return int8


def in_onnxruntime(model: Model) -> Maker:
    """Return a maker of sessions."""

    def make(_: int, threads: int) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        source = model if isinstance(model, bytes) else str(model)
        session = onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda images: session.run(None, {name: images})

    return make


def in_openvino(model: Model, shape: tuple[int, ...]) -> Maker:
    """Return a maker of inference requests, in float32 where the model is not integer."""

    def make(batch: int, threads: int) -> Run:
        core = openvino.Core()
        read = core.read_model(model if isinstance(model, bytes) else str(model))
        read.reshape([batch, *shape])
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        request = core.compile_model(read, "CPU", settings).create_infer_request()
        return lambda images: request.infer({0: images})

    return make


def in_litert(path: Path) -> Maker:
    """Return a maker of interpreters, which read images with their channels last."""

    def make(batch: int, threads: int) -> Run:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path), num_threads=threads)
        given = interpreter.get_input_details()[0]
        interpreter.resize_tensor_input(given["index"], [batch, *given["shape"][1:]])
        interpreter.allocate_tensors()
        output = interpreter.get_output_details()[0]["index"]
        last = np.empty((batch, *given["shape"][1:]), dtype=np.float32)

        def run(images: Floats) -> Any:
            np.copyto(last, images.transpose(0, 2, 3, 1))
            interpreter.set_tensor(given["index"], last)
            interpreter.invoke()
            return interpreter.get_tensor(output)

        return run

    return make


def contestants(export: Path, folder: Path, litert: Path | None) -> dict[str, Maker]:
    """Return what makes every contestant."""
    network = load_packed(export).network
    twin, shape = float_model(network), network.input_shape
    int8 = quantized(twin, network, folder)
    made = {
        target: convert_export(export, folder / target, target=target).path / "model.onnx"
        for target in ("portable", "cpu", "openvino")
    }
    flat = serialise(openvino_model(onnx.load(made["openvino"])))
    makers = {
        BASELINE: in_onnxruntime(twin),
        "ONNX Runtime, uniform int8": in_onnxruntime(int8),
        "OpenVINO, float32": in_openvino(twin, shape),
        "OpenVINO, uniform int8": in_openvino(int8, shape),
        "apot-export portable, ONNX Runtime": in_onnxruntime(made["portable"]),
        "apot-export cpu, ONNX Runtime": in_onnxruntime(made["cpu"]),
        "apot-export openvino, OpenVINO": in_openvino(flat, shape),
        "apot-export native kernels": lambda _, threads: (
            compile_network(network, threads=threads).run
        ),
    }
    return makers | ({} if litert is None else {"LiteRT, int8 of PoTAcc": in_litert(litert)})


# --- the race -------------------------------------------------------------------------------------


def race(
    makers: dict[str, Maker], images: Floats, threads: int, rounds: int, clock: str
) -> dict[str, dict[str, float]]:
    """Return the milliseconds of every contestant, and its ratio to the baseline."""
    runs = {name: make(len(images), threads) for name, make in makers.items()}
    actions = {name: (lambda run=run: run(images)) for name, run in runs.items()}
    times = interleaved(actions, rounds, CLOCKS[clock])
    return {
        name: {
            "median_ms": round(1e3 * statistics.median(found), 3),
            "fastest_ms": round(1e3 * min(found), 3),
            "ratio": round(median_ratio(times[BASELINE], found), 2),
        }
        for name, found in times.items()
    }


def table(name: str, races: list[dict[str, Any]], clock: str) -> Table:
    """Return the ratios of a network's races, with the medians of their times."""
    made = Table(title=f"{name}: ratio to {BASELINE} ({clock} time of a batch)")
    made.add_column("contestant")
    for one in races:
        made.add_column(f"batch {one['batch']}, {one['threads']} thread(s)", justify="right")
    for contestant in races[0]["contestants"]:
        found = [one["contestants"][contestant] for one in races]
        cells = [f"{one['ratio']:.2f} ({one['median_ms']:.4g} ms)" for one in found]
        made.add_row(contestant, *cells)
    return made


def numbers(text: str) -> list[int]:
    """Return the numbers of a list with commas."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Build, race, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exports", nargs="+", help=f"export directories, or of {list(BLOCKS)}")
    parser.add_argument("--batches", type=numbers, default=[1, 32])
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=20, help="of single images; 3 at least")
    parser.add_argument("--litert", type=Path, help="a TFLite file of the exports of its shape")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--profile", action="store_true", help="also show where the time goes")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    onnxruntime.set_default_logger_severity(3)
    console = Console(width=None if Console().is_terminal else 160)
    found: dict[str, Any] = {"machine": machine(*PACKAGES), "clock": arguments.clock}
    found["kernels"] = default_library().chosen(None)
    named = f"{processor_class()}, native kernels {found['kernels']}"
    console.print(f"{found['machine']['processor']}: {named}")
    for given in arguments.exports:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            export = random_export(given, folder) if given in BLOCKS else Path(given)
            network = load_packed(export).network
            litert = arguments.litert if network.input_shape == (3, 32, 32) else None
            makers = contestants(export, folder, litert)
            races = []
            for threads in arguments.threads:
                for batch in arguments.batches:
                    images = noise(batch, network.input_shape)
                    rounds = max(FEWEST_ROUNDS, arguments.rounds // batch)
                    results = race(makers, images, threads, rounds, arguments.clock)
                    races.append({"batch": batch, "threads": threads, "contestants": results})
            console.print(table(export.name, races, arguments.clock))
            found[export.name] = {"races": races}
            if arguments.profile:
                found[export.name]["profile"] = profiles(folder, network)
                console.print_json(json.dumps(found[export.name]["profile"]))
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
