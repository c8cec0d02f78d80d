"""Custom networks: modules of the user's, built of quantized layers that the exporter recognises.

User code is imported only where a factory is named. Layers are recognised by their tensors and
attributes, and each must compute what its replacement of `quantized_layers` computes.
"""

from __future__ import annotations

from apot_export.original.custom._factory import ModelSpec, input_shape_of
from apot_export.original.custom._original import load_custom, original_of_module
from apot_export.original.custom._wrappers import unwrapped

__all__ = ["ModelSpec", "input_shape_of", "load_custom", "original_of_module", "unwrapped"]
