"""The packed file: a conforming safetensors file that holds a coded network. See FORMAT.md."""

from __future__ import annotations

from apot_export.packfile._container import FORMAT_VERSION, tensor_bytes
from apot_export.packfile._network import PackedNetwork, load_packed
from apot_export.packfile._write import packed_file_bytes, require_compressible

__all__ = [
    "FORMAT_VERSION",
    "PackedNetwork",
    "load_packed",
    "packed_file_bytes",
    "require_compressible",
    "tensor_bytes",
]
