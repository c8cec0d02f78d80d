"""The one place that maps errors to messages and exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import typer

from apot_export import budgets
from apot_export.errors import ApotExportError, visible

from ._signals import Stopped

if TYPE_CHECKING:
    from ._options import General

COULD_NOT_RUN = 2


@contextmanager
def reported(
    general: General, *, interrupted: str = "Interrupted.", in_process: bool = False
) -> Iterator[None]:
    """Turn errors into one clear message on standard error and exit code 2.

    Args:
        general: Whether to show tracebacks, too, and the memory that one file may ask for.
        interrupted: What to say when the user stops the program.
        in_process: Read checkpoints without a process of their own.
    """
    debug = general.debug
    try:
        with (
            budgets.max_memory(general.max_memory),
            _reading_checkpoints(in_process=in_process),
        ):
            yield
    except ApotExportError as error:
        if debug:
            traceback.print_exc()
        print_error(error.what, error.details())
        raise typer.Exit(COULD_NOT_RUN) from None
    except Stopped as stopped:
        print_error(interrupted, [])
        raise typer.Exit(stopped.exit_code) from None
    except (typer.Exit, typer.Abort, ModuleNotFoundError):
        raise
    except (BrokenPipeError, SystemExit):
        # Whoever read our output has gone (rich then exits with 1, which means FAIL here).
        sys.stderr.close()
        raise typer.Exit(COULD_NOT_RUN) from None
    except (OSError, MemoryError) as error:
        if debug:
            traceback.print_exc()
        print_error(*of_the_system(error))
        raise typer.Exit(COULD_NOT_RUN) from None
    except Exception as error:  # the last resort: an error of apot-export itself
        if debug:
            raise
        print_error(
            "apot-export itself failed; this is a bug, not your mistake.",
            [
                ("got", f"{type(error).__name__}: {error}"),
                ("to do", "run again with --debug and report the traceback"),
            ],
        )
        raise typer.Exit(COULD_NOT_RUN) from None


def _reading_checkpoints(*, in_process: bool) -> AbstractContextManager[None]:
    if not in_process:
        return nullcontext()
    import apot_export

    return apot_export.in_process()


def of_the_system(error: OSError | MemoryError) -> tuple[str, list[tuple[str, str]]]:
    """Return the message and the details of an error of the operating system."""
    if isinstance(error, MemoryError):
        to_do = "use a machine with more memory, or a smaller --batch-size"
        return "There is not enough memory.", [("got", str(error)), ("to do", to_do)]
    where = [("where", str(error.filename))] if error.filename else []
    got = error.strerror or str(error)
    return "A file cannot be read or written.", [*where, ("got", got)]


def print_error(what: str, details: list[tuple[str, str]]) -> None:
    """Print an error and its details, (label, text), on standard error."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text.assemble(("Error: ", "bold red"), (_one_line(what), "bold")))
    for label, text in details:
        # A script to run stands on lines of its own.
        first, *script = text.split("\n") if label == "to do" else [text]
        console.print(Text.assemble((f"  {label:>8}: ", "dim"), _one_line(first)))
        for line in script:
            console.print(Text.assemble(" " * 12, _one_line(line)))


def _one_line(text: str) -> str:
    """Join the lines of a nested error, and escape what a damaged file's names may do."""
    joined = "; ".join(line.strip() for line in text.split("\n  "))
    return visible(joined)
