"""The packed file: a conforming safetensors file that holds a coded network. See FORMAT.md."""

from __future__ import annotations

from apot_export.artifacts.packed._container import FORMAT_VERSION, tensor_bytes
from apot_export.artifacts.packed.reading import PackedNetwork, load_packed
from apot_export.artifacts.packed.writing import packed_file_bytes, require_compressible

__all__ = [
    "FORMAT_VERSION",
    "PackedNetwork",
    "load_packed",
    "packed_file_bytes",
    "require_compressible",
    "tensor_bytes",
]
