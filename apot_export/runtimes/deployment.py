"""How a model will be run: a runtime, its device, its threads and its batches."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts.onnx_model.probe import parse_model, tf32_exact
from apot_export.errors import DeviceError
from apot_export.network import CodedNetwork

RUNTIMES = {"onnxruntime": ("cpu", "cuda"), "openvino": ("cpu",)}
"""Devices of each runtime."""

Logits = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Images float32 [N, C, H, W] to logits float32 [N, classes]."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A runtime as it will be used.

    Raises:
        DeviceError: There is no such runtime, or it does not run on the device.
    """

    runtime: str
    """One of `RUNTIMES`."""
    device: str
    """Either "cpu" or "cuda"."""
    threads: int
    """Of one inference; 0 for the runtime's choice."""
    batch: int
    """Images in every batch."""
    algorithm: Mapping[str, str] | None = None
    """How CUDA chooses convolutions, of `onnx_runtime.ALGORITHMS`; None for the first way."""

    def __post_init__(self) -> None:
        if self.device in RUNTIMES.get(self.runtime, ()) and self.threads >= 0 and self.batch >= 1:
            return
        raise DeviceError(
            "A model cannot be tuned for this.",
            expected="; ".join(f"{name} on {' or '.join(on)}" for name, on in RUNTIMES.items())
            + "; 0 or more threads, batches of 1 or more",
            got=f"{self.runtime} on {self.device}, {self.threads} threads, batches of {self.batch}",
        )

    def keeping(self, model: bytes, network: CodedNetwork) -> Deployment:
        """Return it with the first algorithm that keeps a network's integers on the device.

        Args:
            model: An ONNX model of the network.
            network: The network.

        Raises:
            DeviceError: None does (see `exactness`), or the provider is not there.
        """
        if self.device == "cpu":
            return self
        from apot_export.runtimes.exactness import find_exact

        graph = parse_model(model)
        batches = (self.batch,)
        found = find_exact(graph, network, self.device, batches=batches, threads=self.threads)
        return replace(self, algorithm=found.algorithm)

    def open(self, model: bytes) -> Logits:
        """Load a model.

        Raises:
            DeviceError: The runtime, or the device's provider, is not there.
            ExportError: The runtime refuses the model.
        """
        run: Logits = self._session(model, self.batch).run
        return run

    def open_native(self, network: CodedNetwork) -> Logits:
        """Compile a network for the native kernels.

        Raises:
            KernelError: There is no C compiler, or the kernels do not run the network.
        """
        from apot_export.runtimes.native import compile_network

        return compile_network(network, threads=self.threads or os.cpu_count() or 1).run

    def values(self, model: bytes, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every output of a model by name, for any number of images.

        Raises:
            ExportError: The runtime refuses the model.
        """
        values: dict[str, NDArray[Any]] = self._session(model, len(images)).run_all(images)
        return values

    def version(self) -> str:
        """Return the version of the runtime.

        Raises:
            DeviceError: It is not installed.
        """
        if self.runtime == "openvino":
            from apot_export.runtimes import openvino_runtime

            return openvino_runtime.version()
        try:
            from apot_export.runtimes import onnx_runtime
        except ImportError as error:
            raise DeviceError(
                "ONNX Runtime is not installed.",
                got=str(error),
                fix="pip install onnxruntime, or onnxruntime-gpu for CUDA",
            ) from error
        return onnx_runtime.version()

    def _session(self, model: bytes, batch: int) -> Any:
        if self.runtime == "openvino":
            from apot_export.runtimes.openvino_runtime import open_openvino

            return open_openvino(model, threads=self.threads, batch=batch)
        from apot_export.runtimes.onnx_runtime import open_session

        return open_session(
            model,
            self.device,
            threads=self.threads,
            tf32=tf32_exact(parse_model(model)),
            algorithm=self.algorithm,
        )


def processor_name() -> str:
    """Return the name of the processor's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def gpu_name() -> str | None:
    """Return the name of the first GPU; None where PyTorch sees none."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
