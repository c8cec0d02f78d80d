"""From a PyTorch module to a source network, with the quantized layers as leaves."""

from __future__ import annotations

from apot_export.encoding.capture import capture
from apot_export.original.tracing import is_plain, trace, value_names

__all__ = ["capture", "is_plain", "trace", "value_names"]
