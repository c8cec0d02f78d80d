"""Find the machine's C compiler and run it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

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
            "There is no C compiler to build native code with.",
            expected="cc or gcc on the search path, or the environment's CC",
            fix="install one, for example the package gcc; or run the ONNX model",
        )
    return compiler


def compiler_failure(command: Sequence[str]) -> str:
    """Run a compiler's command line; return what it says where it fails, else nothing."""
    # The compiler of this machine, on the package's own sources.
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        return str(error)
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""
