"""Networks of the user's own: any module built of quantized layers, the training codes' included.

Nothing here imports code of the user's unless a factory is named. Layers are recognised by what
they hold, and each must compute what its replacement of `quantized_layers` computes.
"""

from __future__ import annotations

from apot_export.original.custom._original import load_own, original_of_module
from apot_export.original.custom._spec import ModelSpec, input_shape_of

__all__ = ["ModelSpec", "input_shape_of", "load_own", "original_of_module"]
