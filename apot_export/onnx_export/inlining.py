"""Models without functions, for runtimes whose readers take standard operators only."""

from __future__ import annotations

import onnx
from onnx.inliner import inline_local_functions


def inlined(model: bytes) -> bytes:
    """Replace the `apot` operators of a serialised model by their bodies."""
    flat: onnx.ModelProto = inline_local_functions(onnx.load_model_from_string(model))
    return bytes(flat.SerializeToString())
