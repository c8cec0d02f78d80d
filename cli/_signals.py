"""Signals that stop the program, as an exception: what was begun is undone on the way out."""

from __future__ import annotations

import signal
from types import FrameType

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(SystemExit):
    """A signal asked the program to stop; the exit code is the shell's for it, 128 + its number."""

    def __init__(self, number: int) -> None:
        """Take the number of the signal."""
        self.exit_code = 128 + number
        super().__init__(self.exit_code)


def stop_on_signals() -> None:
    """Raise `Stopped` in the main thread for the first signal, and ignore those after it."""
    handled = [number for number in _STOPPING if signal.getsignal(number) is not signal.SIG_IGN]

    def stop(number: int, _frame: FrameType | None) -> None:
        for other in handled:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    for number in handled:
        signal.signal(number, stop)
