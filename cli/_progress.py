"""What a command says while it works: a bar on a terminal, elsewhere a line twice a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from rich.console import Console

from . import STARTED

_BETWEEN_LINES = 30.0
"""Seconds; in a log, a command that says nothing for longer looks as if it hung."""


class Work:
    """A command that runs. The library calls it with (what, done, total)."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._step = ("", 0, 0)
        self.show: Callable[[str, int, int], object] = lambda _what, _done, _total: None

    @property
    def seconds(self) -> float:
        """Seconds since the program began, the loading of PyTorch included."""
        return time.monotonic() - STARTED

    def __call__(self, what: str, done: int, total: int) -> None:
        """Note how far the command is."""
        self._step = (what, done, total)
        self.show(what, done, total)

    def line(self) -> str:
        """Say how far the command is, and for how long it has run."""
        what, done, total = self._step
        number = f" {done:,} of {total:,}" if total > 1 else ""
        step = f": {what}{number}" if what else ""
        return f"{self._name}{step} ({self.seconds:.0f} s so far)"


@contextmanager
def working(name: str, *, quiet: bool = False) -> Iterator[Work]:
    """Yield a command that begins; unless it is quiet, standard error says how far it is.

    Args:
        name: What the command does, as "Verifying res20_4bit".
        quiet: Say nothing.
    """
    work = Work(name)
    console = Console(stderr=True)
    if quiet:
        yield work
    elif console.is_terminal and not console.is_dumb_terminal:
        with _bars(work, name, console):
            yield work
    else:
        with _lines(work):
            yield work


@contextmanager
def _bars(work: Work, name: str, console: Console) -> Iterator[None]:
    """Show a bar for the step that the command is at; it goes away at the end."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, transient=True) as bars:
        shown, task = "", bars.add_task(name, total=None)

        def show(what: str, done: int, total: int) -> None:
            nonlocal shown, task
            if what != shown:
                bars.remove_task(task)
                # A step of one part moves to and fro: nobody knows how long it takes.
                shown, task = what, bars.add_task(what, total=total if total > 1 else None)
            bars.update(task, completed=done)

        work.show = show
        yield


@contextmanager
def _lines(work: Work) -> Iterator[None]:
    """Write a line on standard error whenever half a minute has gone by."""
    ended = Event()

    def write() -> None:
        with suppress(OSError, ValueError):  # nobody reads them, or the process ends
            while not ended.wait(_BETWEEN_LINES):
                sys.stderr.write(f"{work.line()}\n")
                sys.stderr.flush()

    thread = Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
