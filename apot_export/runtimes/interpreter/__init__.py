"""The C99 interpreter of integer programs: compiled with the system's compiler, run from Python."""

from __future__ import annotations

import ctypes
import dataclasses
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export import budgets
from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.budgets import Budget
from apot_export.errors import KernelError, PackedFileError
from apot_export.integer import IntegerNetwork
from apot_export.integer.network import Integers
from apot_export.integer.oracle import fixed_point
from apot_export.network import CodedNetwork
from apot_export.network.oracle import require_images
from apot_export.runtimes.compiler import compiler_failure, find_compiler

SOURCES = Path(__file__).parent / "c"
_STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
WITHOUT_MULTIPLICATION = ("-O2", "-DAPOT_NO_MULTIPLY")
"""Flags of the build that multiplies nothing on x86-64, by gcc 12: see apot_integer.h."""
_ALIGNMENT = 8


def compile_interpreter(folder: Path, flags: Sequence[str] = ("-O3",)) -> Path:
    """Compile the interpreter into a shared library and return its path.

    Args:
        folder: Where the library goes.
        flags: Further flags of the compiler.

    Raises:
        KernelError: There is no C compiler (the environment's CC, cc or gcc), or it failed.
    """
    library, source = folder / "libapot_integer.so", SOURCES / "apot_integer.c"
    command = [find_compiler(), *_STRICT, *flags, "-shared", "-fPIC", "-o"]
    if failure := compiler_failure([*command, str(library), str(source)]):
        raise KernelError("The C compiler refused the interpreter.", where=command[0], got=failure)
    return library


@cache
def default_interpreter() -> ctypes.CDLL:
    """Compile the interpreter once a process; the loaded library outlives its file.

    Raises:
        KernelError: There is no C compiler, or it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        return load_interpreter(compile_interpreter(Path(folder)))


def compute_value(
    coded: CodedNetwork, network: IntegerNetwork, name: str, images: NDArray[Any]
) -> Integers:
    """Run an integer network in the interpreter up to one of its values, and return that value.

    Args:
        coded: The coded network.
        network: What `integer.lower` made of it.
        name: The node that computes the value.
        images: What the network reads, [N, channels, height, width]: float32, or uint8 pixels.

    Returns:
        int64 [N, ...] of the node's shape.
    """
    position = next(i for i, node in enumerate(network.nodes) if node.name == name)
    ended = dataclasses.replace(network, nodes=network.nodes[: position + 1], output=name)
    content = packed_file_bytes(coded, {}, ended)
    values = OpenProgram(content).run(fixed_point(network, images))
    return values.reshape(len(images), *network.nodes[position].shape)


def load_interpreter(library: Path) -> ctypes.CDLL:
    """Load a library that `compile_interpreter` made."""
    functions = ctypes.CDLL(str(library))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    functions.apot_model_bytes.restype = size
    functions.apot_workspace_bytes.restype = size
    functions.apot_workspace_bytes.argtypes = [pointer]
    functions.apot_message.restype = ctypes.c_char_p
    functions.apot_open.argtypes = [pointer, pointer, size]
    functions.apot_run.argtypes = [pointer, pointer, pointer, pointer]
    for name in ("channels", "height", "width", "classes", "image_fraction_bits"):
        function = getattr(functions, f"apot_{name}")
        function.restype = ctypes.c_uint32
        function.argtypes = [pointer]
    return functions


class OpenProgram:
    """A packed file's integer program, ready to run."""

    def __init__(self, packed: bytes, interpreter: ctypes.CDLL | None = None) -> None:
        """Open the program in an interpreter; None for the one that a process compiles once.

        Raises:
            KernelError: There is no C compiler, or it failed.
            PackedFileError: The file has no integer program, is damaged, or asks for more memory
                than a file of its size may.
        """
        self._functions = functions = interpreter or default_interpreter()
        self._file = np.frombuffer(packed, dtype=np.uint8).copy()
        self._model = ctypes.create_string_buffer(functions.apot_model_bytes())
        self._check(functions.apot_open(self._model, self._file.ctypes.data, self._file.size))
        extents = (functions.apot_channels, functions.apot_height, functions.apot_width)
        self.input_shape: tuple[int, ...] = tuple(extent(self._model) for extent in extents)
        self.classes: int = functions.apot_classes(self._model)
        self.input_bits: int = functions.apot_image_fraction_bits(self._model)
        self.workspace_bytes: int = functions.apot_workspace_bytes(self._model)
        where = "the workspace of the integer program"
        Budget(len(packed)).require(budgets.BYTES, self.workspace_bytes, where, PackedFileError)

    def run(self, images: Integers | NDArray[np.int32]) -> Integers:
        """Run fixed-point images, [N, channels, height, width], to logits, int64 [N, classes].

        Raises:
            DatasetError: The images do not have the network's input shape.
        """
        require_images(images, self.input_shape)
        numbers = np.ascontiguousarray(images, dtype=np.int32)
        logits = np.empty((len(numbers), self.classes), dtype=np.int64)
        # One number more, so that the address exists where the program needs no bytes.
        workspace = np.empty(self.workspace_bytes // _ALIGNMENT + 1, dtype=np.int64)
        for image, result in zip(numbers, logits, strict=True):
            self._check(
                self._functions.apot_run(
                    self._model, image.ctypes.data, result.ctypes.data, workspace.ctypes.data
                )
            )
        return logits

    def _check(self, status: int) -> None:
        if status:
            message: bytes = self._functions.apot_message(status)
            raise PackedFileError("The integer program does not run.", got=message.decode())
