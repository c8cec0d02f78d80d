"""The PyTorch original as a function of arrays, and the same computed in other ways."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Executor = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def torch_executor(module: nn.Module, device: str) -> Executor:
    """Return the original as a function of numpy arrays; the copies belong to its time."""

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: torch.Tensor = module(torch.from_numpy(images).to(device))
            return logits.float().cpu().numpy()

    return run


def twin_executor(module: nn.Module, device: str) -> Executor:
    """Return the original with PyTorch's other convolution algorithm."""
    return _other_algorithm(device)(torch_executor(module, device))


def twin_executors(module: nn.Module, device: str) -> dict[str, Executor]:
    """Return the original computed in other ways that are as right, by what is different.

    The first one has another convolution algorithm; then a batch cut in two, and on CUDA TF32.
    """
    run = torch_executor(module, device)

    def run_halves(images: NDArray[np.float32]) -> NDArray[np.float32]:
        middle = max(1, len(images) // 2)
        halves = [half for half in (images[:middle], images[middle:]) if len(half)]
        return np.concatenate([run(half) for half in halves])

    twins = {"convolution algorithm": twin_executor(module, device), "batch size": run_halves}
    if device != "cpu":
        twins["TF32"] = _tf32(allowed=True)(run)
    return twins


@contextmanager
def explicit_settings() -> Iterator[Mapping[str, Any]]:
    """Set everything that changes PyTorch's last bits, and yield what was set.

    TF32 is off: it would make both sides' float layers differ far beyond float32 rounding. What was
    set before comes back at the end.
    """
    cudnn = torch.backends.cudnn
    before = (cudnn.benchmark, cudnn.deterministic)
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        with _tf32(allowed=False):
            yield {"tf32": False, "cudnn_benchmark": False, "cudnn_deterministic": True}
    finally:
        cudnn.benchmark, cudnn.deterministic = before


@contextmanager
def _tf32(*, allowed: bool) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32)
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def _other_algorithm(device: str) -> Iterator[None]:
    backend = torch.backends.mkldnn if device == "cpu" else torch.backends.cudnn
    with warnings.catch_warnings():
        # Switching oneDNN off also sets its TF32 flag, which builds without Intel GPUs warn about.
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
        with backend.flags(enabled=False):
            yield
