"""Where a tuned model will run: a runtime, its device, its threads and its batches."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.errors import DeviceError

RUNTIMES = {"onnxruntime": ("cpu", "cuda"), "openvino": ("cpu",)}
"""Devices of each runtime."""

Logits = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Images float32 [N, C, H, W] to logits float32 [N, classes]."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A runtime as it will be used."""

    runtime: str
    device: str
    threads: int
    """Of one inference; 0 for the runtime's choice."""
    batch: int
    """Images in every batch."""

    def open(self, model: bytes) -> Logits:
        """Load a model.

        Raises:
            DeviceError: The runtime, or the device's provider, is not there.
            ExportError: The runtime refuses the model.
        """
        return self._session(model, self.batch).run

    def values(self, model: bytes, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every output of a model by name, for any number of images.

        Raises:
            ExportError: The runtime refuses the model.
        """
        return self._session(model, len(images)).run_all(images)

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
        from apot_export.artifacts.onnx_model.probe import parse_model, tf32_exact
        from apot_export.runtimes.onnx_runtime import open_session

        tf32 = tf32_exact(parse_model(model))
        return open_session(model, self.device, threads=self.threads, tf32=tf32)


def require_place(runtime: str, device: str, threads: int, batch: int) -> Place:
    """Return a place of which all parts exist.

    Raises:
        DeviceError: There is no such runtime, or it is not driven on the device here.
    """
    if device not in RUNTIMES.get(runtime, ()) or threads < 0 or batch < 1:
        raise DeviceError(
            "A model cannot be tuned for this.",
            expected="; ".join(f"{name} on {' or '.join(own)}" for name, own in RUNTIMES.items())
            + "; 0 or more threads, batches of 1 or more",
            got=f"{runtime} on {device}, {threads} threads, batches of {batch}",
        )
    return Place(runtime=runtime, device=device, threads=threads, batch=batch)


def processor_name() -> str:
    """Return what the processor calls itself."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def gpu_name() -> str | None:
    """Return what the first GPU calls itself; None where PyTorch sees none."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
