"""Native kernels: a packed network at the speed of the processor, level for level the oracle's."""

from __future__ import annotations

from apot_export.runtimes.native._compiled import FastNetwork, compile_network
from apot_export.runtimes.native._library import SOURCES
from apot_export.runtimes.native._lower import Plan, plan_network

__all__ = ["SOURCES", "FastNetwork", "Plan", "compile_network", "plan_network"]
