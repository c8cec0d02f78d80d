"""A machine whose time is made up: every model takes what a test says, to the digit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from apot_export.artifacts.directory import (
    ONNX_MODEL,
    read_manifest,
)
from apot_export.artifacts.onnx_model.functions import body_of
from apot_export.errors import KernelError
from apot_export.network import CodedNetwork, oracle
from apot_export.runtimes.deployment import Deployment, Logits
from apot_export.tuning import TuningResult
from apot_export.tuning._race import Run
from apot_export.tuning._tune import tune_for
from tests.support.commands import (
    EXPORT,
)

SLOW, FAST = 2.0, 1.0


@dataclass(kw_only=True)
class Machine:
    """Tells the time, which passes only where a model runs (or loads)."""

    jitter: float = 0.0
    """Standard deviation of a run's time, as a share of it."""
    loading: float = 0.0
    """Seconds to load a model."""
    now: float = 100.0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def clock(self) -> float:
        return self.now

    def takes(self, seconds: float) -> Run:
        self.now += self.loading

        def run() -> None:
            factor = 1 + self.jitter * float(self.rng.normal()) if self.jitter else 1.0
            self.now += seconds * factor

        return run


def is_cpu(model: onnx.ModelProto) -> dict[str, bool]:
    """Return by layer whether its sums have a body for CPUs."""
    sums = {n.input[1]: bool(body_of(n)) for n in model.graph.node if n.op_type.startswith("Shift")}
    return {name.removesuffix(".levels_of_weights"): value for name, value in sums.items()}


def planted(model: onnx.ModelProto) -> float:
    """Return the time of a model on the made-up machine, where target "cpu" is the fastest."""
    return FAST if all(is_cpu(model).values()) else SLOW


@dataclass(frozen=True, kw_only=True)
class MadeUp(Deployment):
    """ONNX Runtime, whose models take the time that a test says and compute what they compute."""

    runtime: str = "onnxruntime"
    device: str = "cpu"
    threads: int = 1
    batch: int = 2
    machine: Machine = field(default_factory=Machine)
    seconds: Callable[[onnx.ModelProto], float] = planted
    disturb: Callable[[onnx.ModelProto, NDArray[Any]], NDArray[Any]] = lambda _model, value: value
    """Changes logits that a model computes."""
    value: Callable[[str, NDArray[Any]], NDArray[Any]] = lambda _name, value: value
    """Changes a value of the graph."""
    native_seconds: float | None = None
    """Time of the native kernels; None where they cannot be built."""

    def open(self, model: bytes) -> Logits:
        proto = onnx.load_from_string(model)
        session = super().open(model)
        wait = self.machine.takes(self.seconds(proto))

        def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
            wait()
            return self.disturb(proto, session(images))

        return logits

    def open_native(self, network: CodedNetwork) -> Logits:
        if self.native_seconds is None:
            raise KernelError("There is no C compiler.")
        wait = self.machine.takes(self.native_seconds)

        def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
            wait()
            return oracle.run(network, images)

        return logits

    def values(self, model: bytes, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return {
            name: self.value(name, value) for name, value in super().values(model, images).items()
        }


def tuned(
    place: Deployment | None = None, directory: Path = EXPORT, **options: Any
) -> TuningResult:
    place = place or MadeUp()
    assert isinstance(place, MadeUp)
    defaults: dict[str, Any] = {
        "seconds": 1e5,
        "output": None,
        "force": False,
        "progress": lambda *_: None,
    }
    return tune_for(place, directory, clock=place.machine.clock, **{**defaults, **options})


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def manifest_of(directory: Path = EXPORT) -> dict[str, Any]:
    return read_manifest(directory)


def model_of(directory: Path = EXPORT) -> onnx.ModelProto:
    return onnx.load(directory / ONNX_MODEL)


def refused(error: type[Exception], match: str, call: Callable[[], object]) -> None:
    """Require an error, and that nothing changed."""
    before = contents(Path())
    with pytest.raises(error, match=match):
        call()
    assert contents(Path()) == before
