"""Time `convert` and `--help` as a user meets them: whole processes, interleaved with baselines.

    python benchmarks/conversion_time.py CHECKPOINT [--rounds 5]

Prints the median seconds of each command, and of `convert` beyond importing torch and torchvision.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(command: list[str]) -> float:
    """Return the wall-clock seconds of one run of a command."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Run all commands in turn, several rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    tool = str(Path(sys.executable).parent / "apot-export")
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "export")
        commands = {
            "import torch, torchvision": [sys.executable, "-c", "import torch, torchvision"],
            "convert": [tool, "convert", str(arguments.checkpoint), "-o", output, "--force"],
            "--help": [tool, "--help"],
            "bare typer": [sys.executable, "-c", "import typer, rich"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                times[name].append(seconds(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    baseline = times["import torch, torchvision"]
    beyond = [
        convert - imports for convert, imports in zip(times["convert"], baseline, strict=True)
    ]
    result = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "checkpoint": arguments.checkpoint.name,
        "rounds": arguments.rounds,
        "median_seconds": medians,
        "convert_beyond_imports": statistics.median(beyond),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
