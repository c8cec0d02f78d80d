"""Native kernels: a packed network at the speed of the processor, level for level the oracle's."""

from __future__ import annotations

from apot_export.runtimes.native._compiled import FastNetwork, compile_network

__all__ = ["FastNetwork", "compile_network"]
