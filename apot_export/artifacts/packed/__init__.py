"""The packed file: a conforming safetensors file that holds a coded network (see FORMAT.md).

Importing it loads what reads such files, and numpy; `writing` is imported by whoever writes one.
"""

from __future__ import annotations

from apot_export.artifacts.packed._container import FORMAT_VERSION, is_packed, tensor_bytes
from apot_export.artifacts.packed.reading import PackedNetwork, load_packed

__all__ = ["FORMAT_VERSION", "PackedNetwork", "is_packed", "load_packed", "tensor_bytes"]
