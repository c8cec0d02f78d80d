"""The process of `apot-export`: its signals, its standard output, its exit code.

It imports what a verb needs only when signals are handled already.
"""

from __future__ import annotations

import io
import sys

from ._signals import Stopped, stop_on_signals


def run() -> None:
    """Run the command line (the installed script calls this)."""
    stop_on_signals()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names may be any bytes, and not every terminal speaks Unicode.
        sys.stdout.reconfigure(errors="backslashreplace")
    output = sys.stdout
    try:
        from .app import app

        app()
    except Stopped:  # outside of every verb, like the others here
        sys.stderr.write("Error: Interrupted.\n")
        raise
    except ModuleNotFoundError as error:
        from ._missing import say_missing

        sys.exit(say_missing(error, sys.argv[1:]))
    except SystemExit:
        from ._errors import COULD_NOT_RUN

        if sys.stdout is output:
            raise
        sys.exit(COULD_NOT_RUN)  # nobody reads the output: typer has put another in its place
    except OSError as error:
        from ._errors import COULD_NOT_RUN, of_the_system, print_error

        print_error(*of_the_system(error))
        sys.exit(COULD_NOT_RUN)


if __name__ == "__main__":
    run()
