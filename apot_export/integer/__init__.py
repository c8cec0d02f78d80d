"""The all-integer network: adds, shifts, compares and constants, one result on every backend."""

from __future__ import annotations

from apot_export.integer.counts import operation_counts
from apot_export.integer.lowering import lower
from apot_export.integer.network import IntegerNetwork, Pixels
from apot_export.integer.oracle import run_integer

__all__ = ["IntegerNetwork", "Pixels", "lower", "operation_counts", "run_integer"]
