"""A build of the native kernels in which C stands for the tile registers of AMX."""

from __future__ import annotations

import ctypes
from pathlib import Path

from apot_export.runtimes.native._library import Library, build_flags, compile_kernels

_VECTORS = {"avx512vbmi", "avx512_vnni", "avx512bw"}


def processor_flags() -> set[str]:
    """Return what the system says that the processor has; nothing where it does not say."""
    information = Path("/proc/cpuinfo")
    text = information.read_text(encoding="utf-8") if information.exists() else ""
    return set(text.split())


def emulating_library(folder: Path, *flags: str) -> Library:
    """Compile the kernels into a folder: AMX is emulated, and AVX-512 stands for AVX-VNNI."""
    known = build_flags()
    vectors = known["avx512_vbmi"] if processor_flags() >= _VECTORS else []
    others = {
        "amx": [*vectors, "-DAPOT_EMULATED_TILES"],
        "avx_vnni": [*known["avx512"], "-mavx2", "-DAPOT_EVEX_DOT"],
    }
    return Library(compile_kernels(folder, flags, others))


def counts(library: Library) -> dict[str, int]:
    """Return how often emulated registers were used since the last call."""
    found = (ctypes.c_int64 * 3)()
    library.functions.apot_emulated_counts(found)
    return dict(zip(("products", "loads", "stores"), found, strict=True))
