"""A build of the native kernels in which C stands for the tile registers of AMX."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from apot_export.runtimes.native import _library
from apot_export.runtimes.native._library import Library, compile_kernels

_VECTORS = {"avx512_vbmi", "avx512_vnni", "avx512bw"}


def processor_flags() -> set[str]:
    """Return what the system says that the processor has; nothing where it does not say."""
    information = Path("/proc/cpuinfo")
    text = information.read_text(encoding="utf-8") if information.exists() else ""
    return set(text.split())


def emulating_flags() -> dict[str, list[str]]:
    """Return the compiler's flags by source: AMX is emulated, and AVX-512 stands for AVX-VNNI."""
    flags = _library.build_flags()
    flags["avx_vnni"] = [*flags["avx512"], "-mavx2", "-DAPOT_EVEX_DOT"]
    vectors = flags["avx512_vbmi"] if processor_flags() >= _VECTORS else []
    flags["amx"] = [*vectors, "-DAPOT_EMULATED_TILES"]
    return flags


def emulating_library(folder: Path, *flags: str) -> Library:
    """Compile the kernels into a folder, with what this processor lacks emulated."""
    by_file = emulating_flags()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_library, "build_flags", lambda: by_file)
        return Library(compile_kernels(folder, flags))


def counts(library: Library) -> dict[str, int]:
    """Return how often emulated registers were used since the last call."""
    found = (ctypes.c_int64 * 3)()
    library.functions.apot_emulated_counts(found)
    return dict(zip(("products", "loads", "stores"), found, strict=True))
