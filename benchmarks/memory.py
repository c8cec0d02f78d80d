"""Peak memory of converting checkpoints, and of reading what that makes.

    python -m benchmarks.memory REFERENCE [--only NAME ...] [--out FILE.json]

Reading is `load_packed` and the weights of every layer, all kept: what Python and numpy allocate at
their peak, and the mapped file, compared with the size of the file plus that of the weights.
Converting runs in a process of its own. Its memory is what that process and those that it starts
take at their peak beyond what there was after the imports: shared pages count once, sampled every
10 ms, or what the process alone takes, whichever is more (Linux); it is compared with the size of
the checkpoint. REFERENCE has the folder of published checkpoints; a ResNet-152 of random weights
is added to them, whose checkpoint this writes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torchvision import models

from apot_export import load_packed
from apot_export.artifacts.directory import PACKED_MODEL
from apot_export.conversion.convert import convert
from apot_export.original.choices import Choices
from benchmarks._facts import machine
from tests.support.full_size import quantized
from tests.support.published import PUBLISHED

Facts = dict[str, Any]


def memory_of(process: int) -> int:
    """Return the bytes of a process and of those that it started, shared pages in shares."""
    folder = Path("/proc") / str(process)
    try:
        rollup = (folder / "smaps_rollup").read_text()
        started = " ".join(file.read_text() for file in folder.glob("task/*/children"))
    except OSError:  # it has ended
        return 0
    shares = [line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")]
    return 1024 * sum(map(int, shares)) + sum(memory_of(int(child)) for child in started.split())


def _own(field: str) -> int:
    """Return the bytes of this process now ("VmRSS") or at its peak ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def _measured(pipe: Any, step: Callable[..., Facts], arguments: tuple[Any, ...]) -> None:
    pipe.send(None)
    pipe.recv()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _own("VmRSS")
    facts = step(*arguments)
    pipe.send({**facts, "own": _own("VmHWM") - before})


def measured(step: Callable[..., Facts], *arguments: Any) -> Facts:
    """Run a step in a process of its own; return its facts and peak."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    process = context.Process(target=_measured, args=(far, step, arguments))
    process.start()
    near.recv()
    before = peak = memory_of(process.pid or 0)
    near.send(None)
    while not near.poll(0.01):
        peak = max(peak, memory_of(process.pid or 0))
    facts: Facts = near.recv()
    process.join()
    return {**facts, "peak": max(peak - before, facts.pop("own"))}


def read(path: Path) -> Facts:
    """Read a packed file and all weights of it."""
    tracemalloc.start()
    network = load_packed(path)
    weights = [layer.weights() for layer in network.layers.values()]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    decoded, file = sum(one.nbytes for one in weights), path.stat().st_size
    return {"file": file, "decoded": decoded, "peak": peak + file}


def converted(checkpoint: Path, folder: Path, choices: Choices) -> Facts:
    """Convert a checkpoint."""
    convert(checkpoint, folder, choices=choices, trust_options=True)
    return {"checkpoint": checkpoint.stat().st_size}


def _save_resnet152(path: Path) -> Facts:
    torch.manual_seed(0)
    torch.save({"state_dict": quantized(models.resnet152()).state_dict()}, path)
    return {}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        sources = {
            name: (options.reference / "checkpoints" / one.checkpoint, one.choices)
            for name, one in PUBLISHED.items()
        }
        sources["resnet152_4bit"] = Path(folder) / "resnet152_4bit.pth", Choices(bits=4)
        for name, (checkpoint, choices) in sources.items():
            if options.only and name not in options.only:
                continue
            if name.startswith("resnet152"):
                measured(_save_resnet152, checkpoint)
            export = Path(folder) / name
            conversion = measured(converted, checkpoint, export, choices)
            reading = read(export / PACKED_MODEL)
            results[name] = {"conversion": conversion, "reading": reading}
            of_files = reading["peak"] / (reading["file"] + reading["decoded"])
            share = conversion["peak"] / conversion["checkpoint"]
            print(
                f"{name}: file {reading['file']:,}, weights {reading['decoded']:,}, reading takes "
                f"{reading['peak']:,} ({of_files:.2f} of both); checkpoint "
                f"{conversion['checkpoint']:,}, converting takes {conversion['peak']:,} "
                f"({share:.2f} of it)",
                flush=True,
            )
    if options.out:
        options.out.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
