"""Native kernels: a packed network at the speed of the processor, level for level the oracle's."""

from __future__ import annotations

from apot_export.runtimes.native._network import FastNetwork, compile_network
from benchmarks._profile import StepTime, profile

__all__ = ["FastNetwork", "StepTime", "compile_network", "profile"]
