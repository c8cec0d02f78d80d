"""The kernels: compiled on first use with the system's C compiler, kept in a cache of the user."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from apot_export.artifacts.atomic import temporary_folder
from apot_export.errors import KernelError
from apot_export.runtimes.compiler import compiler_failure, find_compiler
from apot_export.runtimes.native._cache import cached
from apot_export.runtimes.native._structs import ANY_MEMORY, Options

SOURCES = Path(__file__).parent / "c"
KERNELS_VARIABLE = "APOT_EXPORT_KERNELS"


def build_flags() -> dict[str, list[str]]:
    """Return the compiler's flags by source, "" for those of all, as the Makefile states them."""
    text = (SOURCES / "Makefile").read_text(encoding="utf-8")
    lines = re.findall(r"^(\w*?)_?FLAGS := (.*)$", text, re.MULTILINE)
    return {name: flags.split() for name, flags in lines}


def compile_kernels(
    folder: Path,
    flags: Sequence[str] = ("-O3",),
    others: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Compile the kernels into a shared library and return its path.

    Args:
        folder: Where the library goes, atomically.
        flags: Further flags of the compiler.
        others: Flags of single sources in place of the Makefile's.

    Raises:
        KernelError: There is no compiler, or it failed.
    """
    compiler, by_file = find_compiler(), {**build_flags(), **(others or {})}
    base = [compiler, *by_file[""], *flags]
    with temporary_folder(folder) as work:

        def compiled(name: str) -> str:
            source, target = SOURCES / name, str(work / f"{name}.o")
            command = [*base, "-c", str(source), "-o", target]
            # A compiler that does not know an instruction set builds the file without it: such a
            # file then says that it has no kernels.
            if compiler_failure([*command, *by_file.get(source.stem, ())]) and (
                failure := compiler_failure(command)
            ):
                raise KernelError("The C compiler refused a kernel.", where=name, got=failure)
            return target

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            sources = sorted(path.name for path in SOURCES.glob("*.c"))
            objects = list(pool.map(compiled, sources))
        library = work / "libapot.so"
        if failure := compiler_failure([*base, "-shared", "-o", str(library), *objects]):
            raise KernelError("The C compiler did not link the kernels.", got=failure)
        return library.replace(folder / library.name)


class Library:
    """A compiled library of kernels."""

    def __init__(self, path: Path) -> None:
        """Load a library that `compile_kernels` made.

        Raises:
            KernelError: It cannot be loaded.
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
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        functions.apot_message.restype = functions.apot_kernels_at.restype = ctypes.c_char_p
        functions.apot_open_memory.argtypes = [pointer, ctypes.c_char_p, ctypes.c_size_t, pointer]
        functions.apot_close.argtypes = [pointer]
        functions.apot_close.restype = None
        functions.apot_workspace_bytes.argtypes = [pointer, ctypes.c_int]
        functions.apot_workspace_bytes.restype = ctypes.c_size_t
        functions.apot_run.argtypes = [pointer, pointer, number, pointer, ctypes.c_int, pointer]
        functions.apot_run_step.argtypes = [*(pointer, number), *functions.apot_run.argtypes[1:2]]
        functions.apot_run_step.argtypes += [pointer, ctypes.c_int, pointer]
        self.functions = functions
        names: list[str] = []
        while (name := functions.apot_kernels_at(len(names))) is not None:
            names.append(name.decode())
        self.kernels = tuple(names)
        """Kernels that this processor has the instructions for, the fastest first."""

    def opened(self, plan: bytes, kernels: str) -> ctypes.c_void_p:
        """Open a plan that this process made, of any size, and return the handle.

        Raises:
            KernelError: The library refuses it.
        """
        handle = ctypes.c_void_p()
        options = Options(ctypes.sizeof(Options), kernels.encode(), ANY_MEMORY)
        self.require_done(
            self.functions.apot_open_memory(
                ctypes.byref(handle), plan, len(plan), ctypes.byref(options)
            )
        )
        return handle

    def require_done(self, status: int) -> None:
        """Raise `KernelError` with the library's words for a status other than 0."""
        if status:
            message: bytes = self.functions.apot_message(status)
            raise KernelError("The kernels did not run.", got=message.decode())

    def chosen(self, name: str | None) -> str:
        """Return the name of kernels: the one given, else the environment's, else the fastest.

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
        return wanted


@cache
def default_library() -> Library:
    """Return the library of the user's cache, compiled first where it is not there.

    Raises:
        KernelError: There is no compiler, it failed, or the cache is not this user's alone.
    """
    key = hashlib.sha256(f"{find_compiler()}\x00{platform.machine()}".encode())
    for file in sorted(path for path in SOURCES.iterdir() if path.is_file()):
        key.update(file.name.encode() + file.read_bytes())
    return Library(cached(key.hexdigest()[:32], compile_kernels))
