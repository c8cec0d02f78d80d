"""What commands say while they work: never nothing for long, and nothing with --quiet."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from threading import Semaphore

import pytest
from rich.console import Console

from tests.support.commands import BETWEEN_LINES, CHECKPOINT, EXPORT, PROGRESS, here, run


class Clock:
    """A clock, and the event that a thread waits for, which stand still unless told otherwise."""

    def __init__(self) -> None:
        self.now, self._ended = 0.0, False
        self._waiting, self._go = Semaphore(0), Semaphore(0)

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self._waiting.release()
        self._go.acquire()
        self.now += seconds
        return self._ended

    def set(self) -> None:
        self._ended = True
        self._go.release()

    def go_on(self) -> None:
        """Let the time pass that is waited for, until the next is."""
        self._waiting.acquire()
        self._go.release()
        self._waiting.acquire()
        self._waiting.release()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(PROGRESS.time, "monotonic", clock.monotonic)
    monkeypatch.setattr(PROGRESS, "Event", lambda: clock)
    monkeypatch.setattr(PROGRESS, "STARTED", clock.now)
    monkeypatch.setattr(PROGRESS, "_BETWEEN_LINES", BETWEEN_LINES)
    return clock


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Make standard error a terminal of 100 columns, and return what it is sent."""
    sent = io.StringIO()
    console = Console(file=sent, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    monkeypatch.setattr(PROGRESS, "Console", lambda **_: console)
    return sent


def test_a_log_gets_a_line_every_half_minute(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with PROGRESS.working("Verifying res20") as work:
        clock.go_on()
        work("loading models", 0, 1)
        clock.go_on()
        work("images", 1200, 10_000)
        clock.go_on()
    assert capsys.readouterr() == (
        "",
        "Verifying res20 (30 s so far)\n"
        "Verifying res20: loading models (60 s so far)\n"
        "Verifying res20: images 1,200 of 10,000 (90 s so far)\n",
    )


def test_a_quiet_command_starts_no_clock(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with PROGRESS.working("Verifying res20", quiet=True) as work:
        work("images", 1, 2)
    assert capsys.readouterr() == ("", "")
    assert clock.now == 0


def test_the_line_ends_with_the_command(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(ValueError), PROGRESS.working("Converting x"):
        clock.go_on()
        raise ValueError
    assert capsys.readouterr().err == "Converting x (30 s so far)\n"


def test_a_terminal_gets_a_bar_that_goes_away(terminal: io.StringIO) -> None:
    with PROGRESS.working("Verifying res20") as work:
        work("images", 1200, 10_000)
    text = terminal.getvalue()
    assert "Verifying res20" in text or "images" in text
    assert text.endswith(("\x1b[1A\x1b[2K", "\x1b[2K"))


@here
@pytest.mark.parametrize(
    ("line", "steps"),
    [
        (f"convert {CHECKPOINT} -o new", ["Converting"]),
        (f"verify {EXPORT} --limit 20 --no-attach", ["Verifying", "images"]),
        (f"inspect identify {CHECKPOINT}", ["Identifying"]),
    ],
)
def test_verbs_show_what_they_do(line: str, steps: list[str], terminal: io.StringIO) -> None:
    result = run(*line.split())
    assert result.exit_code == 0, result.output
    for step in steps:
        assert step in terminal.getvalue()


@here
def test_quiet_prints_paths_and_verdicts_alone(tmp_path: Path, terminal: io.StringIO) -> None:
    assert run("convert", CHECKPOINT, "-o", "new/export", "-q").output == "new/export\n"
    assert run("verify", "-q", "--limit", "20", "--no-attach").output == "PASS\n"
    assert run("convert", EXPORT, "--target", "cpu", "-o", "cpu", "-q").output == "cpu\n"
    project = str(tmp_path / "vectors")
    vectors = run("emit", "vectors", EXPORT, "-o", project, "--layer", "layer1.0.conv1", "-q")
    assert vectors.output == f"{project}\n"
    assert run("inspect", "alphas", "-q").stderr == ""
    assert terminal.getvalue() == ""
