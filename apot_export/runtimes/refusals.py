"""What runtimes raise, as errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from apot_export.errors import ExportError


@contextmanager
def refusals(what: str, line: int = 0) -> Iterator[None]:
    """Turn whatever is raised into an `ExportError`, unless it is one.

    Args:
        what: What does not work, as a sentence.
        line: Which line of the runtime's message gives the reason.
    """
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        lines = [part.strip() for part in str(error).splitlines() if part.strip()]
        reason = lines[line] if lines else type(error).__name__
        raise ExportError(what, got=reason, fix="convert the checkpoint again") from error
