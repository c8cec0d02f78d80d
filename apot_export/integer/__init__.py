"""The all-integer network: adds, shifts, compares and constants, one result on every backend."""

from __future__ import annotations

from apot_export.integer._counts import operation_counts
from apot_export.integer._lower import lower
from apot_export.integer._network import IntegerNetwork
from apot_export.integer._pixels import Pixels
from apot_export.integer._reference import run_integer

__all__ = ["IntegerNetwork", "Pixels", "lower", "operation_counts", "run_integer"]
