"""Time and memory of `convert` against other exporters of a network of the same architecture.

    python -m benchmarks.conversion_peers CHECKPOINT [--rounds 5] [--out FILE.json]

CHECKPOINT is a ResNet-18 for ImageNet. Every exporter runs in a process of its own, one after the
other in every round, and says how long its conversion took after all imports, how much memory the
process had at its peak, and how much before converting. Peers get their network built and in
memory; `convert` reads its checkpoint within the time. brevitas is measured where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._facts import machine, median_ratio

PEERS = ("numpy", "torch", "torchvision", "onnx", "onnxruntime", "brevitas", "qonnx")
IMAGE = (1, 3, 224, 224)
OURS = "apot-export convert"
COMPRESSED = "apot-export convert --compress"
TORCHSCRIPT = "torch.onnx, TorchScript"
ORT = "onnxruntime.quantization"
BREVITAS = "brevitas QONNX"


def apot(checkpoint: Path, folder: Path, *, compress: bool) -> Callable[[], object]:
    """Return our conversion."""
    from apot_export.conversion.convert import convert

    return lambda: convert(checkpoint, folder / "export", compress=compress)


def torchscript(folder: Path) -> Callable[[], object]:
    """Return the TorchScript export of a float ResNet-18."""
    import torch
    import torchvision

    model = torchvision.models.resnet18().eval()
    image = torch.zeros(IMAGE)
    path = str(folder / "model.onnx")
    return lambda: torch.onnx.export(model, (image,), path, dynamo=False, opset_version=17)


def ort_quantization(folder: Path) -> Callable[[], object]:
    """Return preprocessing and static quantization of an ONNX ResNet-18, with one image."""
    import numpy as np
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class OneImage(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self._images = iter([{name: np.zeros(IMAGE, dtype=np.float32)}])

        def get_next(self) -> Any:
            return next(self._images, None)

    torchscript(folder)()
    model, prepared = str(folder / "model.onnx"), str(folder / "prepared.onnx")
    import onnx

    name = onnx.load(model).graph.input[0].name

    def quantize() -> None:
        quant_pre_process(model, prepared)
        quantize_static(prepared, str(folder / "quantized.onnx"), OneImage(name))

    return quantize


def brevitas_qonnx(folder: Path) -> Callable[[], object]:
    """Return the QONNX export of a ResNet-18 of brevitas' layers, 4-bit weights and activations."""
    import torch
    import torchvision
    from brevitas import nn as quantized
    from brevitas.export import export_qonnx
    from torch import nn

    def dress(module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d):
                made = quantized.QuantConv2d(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,
                    stride=child.stride,
                    padding=child.padding,
                    bias=False,
                    weight_bit_width=4,
                )
                setattr(module, name, made)
            elif isinstance(child, nn.ReLU):
                setattr(module, name, quantized.QuantReLU(bit_width=4))
            else:
                dress(child)

    model = torchvision.models.resnet18()
    dress(model)
    image = torch.rand(IMAGE)
    model(image)  # in training mode, so that scales of activations exist
    model.eval()
    path = str(folder / "brevitas.onnx")
    return lambda: export_qonnx(model, args=image, export_path=path)


def worker(name: str, checkpoint: Path) -> None:
    """Convert once in this process and print the figures as one line of JSON."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        convert = {
            OURS: lambda: apot(checkpoint, folder, compress=False),
            COMPRESSED: lambda: apot(checkpoint, folder, compress=True),
            TORCHSCRIPT: lambda: torchscript(folder),
            ORT: lambda: ort_quantization(folder),
            BREVITAS: lambda: brevitas_qonnx(folder),
        }[name]()
        before = peak_megabytes()
        started = time.perf_counter()
        convert()
        seconds = time.perf_counter() - started
    figures = {"seconds": seconds, "megabytes_before": before, "megabytes_peak": peak_megabytes()}
    print(json.dumps(figures))


def peak_megabytes() -> float:
    """Return the largest memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measured(name: str, checkpoint: Path) -> dict[str, float]:
    """Run a worker; add the seconds of the whole process."""
    command = [sys.executable, "-m", "benchmarks.conversion_peers", str(checkpoint)]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--worker", name], check=True, stdout=subprocess.PIPE, text=True
    )
    whole = time.perf_counter() - started
    return {**json.loads(done.stdout.splitlines()[-1]), "process_seconds": whole}


def main() -> None:
    """Run all exporters in turn, several rounds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.checkpoint)
        return
    names = [OURS, COMPRESSED, TORCHSCRIPT, ORT]
    if importlib.util.find_spec("brevitas"):
        names.append(BREVITAS)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name in names:
            rounds[name].append(measured(name, arguments.checkpoint))
    ours = [run["seconds"] for run in rounds[OURS]]
    result = {
        "machine": machine(*PEERS),
        "checkpoint": arguments.checkpoint.name,
        "rounds": arguments.rounds,
        "exporters": {
            name: {
                **{key: statistics.median(run[key] for run in runs) for key in runs[0]},
                "times_as_long_as_ours": median_ratio([run["seconds"] for run in runs], ours),
            }
            for name, runs in rounds.items()
        },
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
