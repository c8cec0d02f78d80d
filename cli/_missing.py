"""What is said where packages that a command needs are not installed (`pip install --no-deps`)."""

from __future__ import annotations

import sys
from pathlib import Path

import apot_export
from apot_export.errors import MissingPackageError

_COULD_NOT_RUN = 2
_HELP = """\
apot-export {version}, without the packages that its commands need ({error}).
For convert, verify, tune, inspect and emit, install them:

    pip install apot-export        # or: uv pip install apot-export

What works without them, in Python with numpy:

    packed = apot_export.load_packed(PATH)          reads a packed file or an export
    apot_export.compile_network(packed.network)     runs it, with a C compiler

In C, without a library: {interpreter}
"""


def say_missing(error: ModuleNotFoundError, arguments: list[str]) -> int:
    """Say what is missing, or what works without it where help is wanted; return the exit code."""
    if not arguments or {"-h", "--help", "--version"} & set(arguments):
        interpreter = Path(apot_export.__path__[0], "runtimes", "interpreter", "c")
        version = apot_export.__version__
        sys.stdout.write(_HELP.format(version=version, error=error, interpreter=interpreter))
        return 0
    missing = MissingPackageError(error)
    sys.stderr.write(f"Error: {missing.what}\n")
    sys.stderr.writelines(f"  {label:>8}: {text}\n" for label, text in missing.details())
    return _COULD_NOT_RUN
