"""PyTorch's functions, methods and operators in terms of `primitives`.

Every rewriting gets the call's arguments as they are, tensors as proxies of known shapes, and
returns the proxy of its result; None where it leaves the call as it is.
"""

from __future__ import annotations

from apot_export.original import _activations, _arithmetic, _windows
from apot_export.original._calls import REWRITINGS, constant_of, is_tensor, without_tracing
from apot_export.original._rearranging import of_same_numbers

FILLED_BY = (_activations, _arithmetic, _windows)
"""Modules that enter into the registry what they rewrite."""

__all__ = ["REWRITINGS", "constant_of", "is_tensor", "of_same_numbers", "without_tracing"]
