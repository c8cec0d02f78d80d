"""Running programs whose native code a compiler's sanitizers watch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from apot_export.runtimes.compiler import find_compiler

SUPPORT = Path(__file__).parent
_RUNTIMES = {
    "address,undefined": {"gcc": "libasan.so", "clang": "libclang_rt.asan-x86_64.so"},
    "thread": {"gcc": "libtsan.so"},
}
"""Libraries that sanitized code in Python needs first, by sanitizers and kind of compiler."""
VARIABLE = "SANITIZERS"
"""What `flags` reads: the sanitizers' names, empty where this machine has none."""


def flags(*others: str) -> tuple[str, ...]:
    """Return the flags of a build that the sanitizers named in the environment watch."""
    named = os.environ[VARIABLE]
    watched = (f"-fsanitize={named}", "-fno-sanitize-recover=all")
    return (*others, *(watched if named else ()))


def run_sanitized(script: str, folder: Path, sanitizers: str = "address,undefined") -> str:
    """Run a program of this folder, which compiles into another; return what it prints.

    A sanitizer ends the process on any fault. Where there is none the program runs without.
    """
    compiler = find_compiler()
    kind = "clang" if "clang" in Path(compiler).name else "gcc"
    library = _RUNTIMES[sanitizers].get(kind, "none")
    found = subprocess.run(
        [compiler, f"-print-file-name={library}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {
        **os.environ,
        VARIABLE: "",
        "ASAN_OPTIONS": "detect_leaks=0",
        "TSAN_OPTIONS": "halt_on_error=1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    if Path(found).is_absolute():
        environment |= {"LD_PRELOAD": found, VARIABLE: sanitizers}
    elif os.environ.get("CI"):
        raise AssertionError(f"CI must have a compiler with {library}; {compiler} has none")
    command = [sys.executable, str(SUPPORT / script), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
