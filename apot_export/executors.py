"""The original as a function of arrays, and the same with PyTorch's other convolution algorithm."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
    run = torch_executor(module, device)

    def run_otherwise(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with _other_algorithm(device):
            return run(images)

    return run_otherwise


@contextmanager
def _other_algorithm(device: str) -> Iterator[None]:
    backend = torch.backends.cudnn if device == "cuda" else torch.backends.mkldnn
    with warnings.catch_warnings():
        # Switching oneDNN off also sets its TF32 flag, which builds without Intel GPUs warn about.
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
        with backend.flags(enabled=False):
            yield
