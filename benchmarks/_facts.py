"""What every benchmark says of the machine, and how it times: in turns, by medians."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def machine(*packages: str) -> dict[str, Any]:
    """Return the processor, its cores and load, and the versions of packages (None: absent)."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8").splitlines()
        named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = named[0] if named else model
    return {
        "processor": model,
        "class": processor_class(),
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "system": platform.system(),
        "python": platform.python_version(),
        "threads": os.environ.get("OMP_NUM_THREADS", "as many as cores"),
        "packages": {name: _version(name) for name in packages},
    }


def processor_class() -> str:
    """Return what of its instructions decides the speed of 8-bit products."""
    information = Path("/proc/cpuinfo")
    text = information.read_text(encoding="utf-8") if information.exists() else ""
    flags = set(text.split())
    classes = {
        "amx_int8": "AMX",
        "avx512_vnni": "AVX-512 VNNI",
        "avx_vnni": "AVX-VNNI",
        "avx2": "AVX2",
        "i8mm": "NEON with i8mm",
        "asimddp": "NEON with the dot product",
    }
    return next((name for flag, name in classes.items() if flag in flags), platform.machine())


def interleaved(
    actions: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of every action in every round; each round runs all of them in turn."""
    for action in actions.values():
        action()
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            started = clock()
            action()
            seconds[name].append(clock() - started)
    return seconds


def median_ratio(times: list[float], baseline: list[float]) -> float:
    """Return the median over rounds of one action's time over another's."""
    return statistics.median(a / b for a, b in zip(times, baseline, strict=True))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
