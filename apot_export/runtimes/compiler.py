"""Find a C compiler and build shared libraries with it."""

from __future__ import annotations

import os
import shutil

from apot_export.errors import KernelError


def find_compiler() -> str:
    """Return the path of a C compiler: the environment's CC, cc or gcc.

    Raises:
        KernelError: There is none.
    """
    named = (os.environ.get("CC"), "cc", "gcc")
    compiler = next((found for name in named if name and (found := shutil.which(name))), None)
    if compiler is None:
        raise KernelError(
            "There is no C compiler to build the kernels with.",
            expected="cc or gcc on the search path, or the environment's CC",
            fix="install one, for example the package gcc; or run the ONNX model",
        )
    return compiler
