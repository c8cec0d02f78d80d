"""Where PyTorch's float32 sums are those that the training codes' files were made with."""

from __future__ import annotations

import platform

import pytest
import torch

as_pytorch = pytest.mark.skipif(
    platform.machine() not in {"x86_64", "AMD64"}
    or not torch.backends.cpu.get_cpu_capability().startswith("AVX"),
    reason="PyTorch adds in another order on this machine",
)
