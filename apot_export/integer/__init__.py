"""The all-integer network: adds, shifts, compares and constants, one result on every backend."""

from __future__ import annotations

from apot_export.integer._lower import lower
from apot_export.integer._network import IntegerNetwork
from apot_export.integer._reference import run_integer

__all__ = ["IntegerNetwork", "lower", "run_integer"]
