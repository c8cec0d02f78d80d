"""The kernels: compiled on first use with the system's C compiler, kept in a cache of the user."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from apot_export.artifacts.atomic import temporary_folder
from apot_export.errors import KernelError
from apot_export.runtimes.compiler import compiler_failure, find_compiler
from apot_export.runtimes.native._cache import cached
from apot_export.runtimes.native._structs import Step, View

SOURCES = Path(__file__).parent / "c"
KERNELS_VARIABLE = "APOT_EXPORT_KERNELS"

# Contraction would round a product and a sum once where the oracle rounds twice.
_FLAGS = (
    *("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fPIC", "-pthread"),
    *("-ffp-contract=off", "-fno-strict-aliasing"),
)
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-mfma")
_X86_FLAGS: dict[str, tuple[str, ...]] = {
    "avx512_vbmi.c": (*_AVX512, "-mavx512vbmi"),
    "avx512.c": _AVX512,
    "avx_vnni.c": ("-mavx2", "-mfma", "-mavxvnni"),
    "avx2.c": ("-mavx2", "-mfma"),
}
_ARM_FLAGS: dict[str, tuple[str, ...]] = {"neon.c": ("-march=armv8.2-a+dotprod",)}
_FLAGS_OF_MACHINE: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": _X86_FLAGS,
    "amd64": _X86_FLAGS,
    "aarch64": _ARM_FLAGS,
    "arm64": _ARM_FLAGS,
}
_ALWAYS = ("apot_fast.c", "plain.c")


def compile_kernels(folder: Path, flags: Sequence[str] = ("-O3",)) -> Path:
    """Compile the kernels into a shared library and return its path.

    Args:
        folder: Where the library goes, atomically.
        flags: Further flags of the compiler.

    Raises:
        KernelError: There is no compiler, or it failed.
    """
    compiler = find_compiler()
    by_file = _FLAGS_OF_MACHINE.get(platform.machine().lower(), {})
    with temporary_folder(folder) as work:

        def compiled(name: str) -> str:
            target = str(work / f"{name}.o")
            base = [compiler, *_FLAGS, *flags, "-c", str(SOURCES / name), "-o", target]
            # A compiler that does not know an instruction set builds the file without it: such a
            # file then says that it has no kernels.
            if compiler_failure([*base, *by_file.get(name, ())]) and (
                failure := compiler_failure(base)
            ):
                raise KernelError("The C compiler refused a kernel.", where=name, got=failure)
            return target

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            objects = list(pool.map(compiled, (*_ALWAYS, *sorted(_X86_FLAGS | _ARM_FLAGS))))
        library = work / "libapot_fast.so"
        failure = compiler_failure(
            [compiler, *_FLAGS, *flags, "-shared", "-o", str(library), *objects]
        )
        if failure:
            raise KernelError("The C compiler did not link the kernels.", got=failure)
        return library.replace(folder / library.name)


class Library:
    """A compiled library of kernels."""

    def __init__(self, path: Path) -> None:
        """Load a library that `compile_kernels` made.

        Raises:
            KernelError: It cannot be loaded, or has another layout of steps.
        """
        try:
            functions = ctypes.CDLL(str(path))
        except OSError as error:
            raise KernelError(
                "The library of kernels cannot be loaded.",
                where=str(path),
                got=str(error),
                fix="let the environment's APOT_EXPORT_CACHE name a folder whose files may run",
            ) from error
        functions.apot_fast_step_bytes.restype = ctypes.c_size_t
        functions.apot_fast_kernels.restype = ctypes.c_char_p
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        functions.apot_fast_run.argtypes = [
            *(pointer, number, number, number, pointer, number, pointer, number, View),
            *(pointer, number, number, number, ctypes.c_int),
        ]
        if functions.apot_fast_step_bytes() != ctypes.sizeof(Step):
            raise KernelError(
                "The library of kernels does not belong to this program.",
                where=str(path),
                expected=f"steps of {ctypes.sizeof(Step)} bytes",
                got=str(functions.apot_fast_step_bytes()),
                fix="delete it",
            )
        self.functions = functions
        names: list[str] = []
        while (name := functions.apot_fast_kernels(len(names))) is not None:
            names.append(name.decode())
        self.kernels = tuple(names)
        """Kernels that this processor has the instructions for, the fastest first."""

    def index_of(self, name: str | None) -> int:
        """Return the index of kernels by name, or where None the environment's or the fastest.

        Raises:
            KernelError: This processor, or this build, has no such kernels.
        """
        wanted = name or os.environ.get(KERNELS_VARIABLE) or self.kernels[0]
        if wanted not in self.kernels:
            raise KernelError(
                "There are no such kernels on this processor.",
                expected=", ".join(self.kernels),
                got=wanted,
            )
        return self.kernels.index(wanted)


@cache
def default_library() -> Library:
    """Return the library of the user's cache, compiled first where it is not there.

    Raises:
        KernelError: There is no compiler, it failed, or the cache is not this user's alone.
    """
    key = hashlib.sha256("\0".join([find_compiler(), platform.machine(), *_FLAGS]).encode())
    for file in sorted(SOURCES.iterdir()):
        key.update(file.name.encode() + file.read_bytes())
    key.update(repr((_X86_FLAGS, _ARM_FLAGS)).encode())
    return Library(cached(key.hexdigest()[:32], compile_kernels))
