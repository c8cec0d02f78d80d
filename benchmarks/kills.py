"""Stop commands at random moments, and see what they leave.

    python benchmarks/kills.py --kills 200
    python benchmarks/kills.py --kills 40 --signal TERM

Each command runs on the embedded example again and again and is stopped every time, half of the
times anywhere, half of the times while it writes. The folder is never tidied up. After every stop
there must be a complete export, the old or the new one, and nothing that the next run would refuse;
after INT and TERM, which commands handle, also no temporary file, one line and the right exit code.
At last every command runs to its end, and nothing of the stopped ones may be left.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

import apot_export.conversion.calibration  # what commands need, before they are forked
import apot_export.conversion.convert
import apot_export.conversion.convert_export
import apot_export.tuning
import apot_export.verification  # noqa: F401
from apot_export.artifacts.atomic import TEMPORARY
from apot_export.artifacts.directory import check_files, read_manifest, require_free

import_module("apot_export_cli.app")
run = import_module("apot_export_cli.main").run  # of the folder cli/
CHECKPOINT = Path(__file__).parents[1] / "examples/digits/res8_4bit/model_best.pth.tar"
PROGRAM = "from apot_export_cli.main import run; run()"
COMMANDS: dict[str, tuple[str, ...]] = {
    "convert": ("convert", str(CHECKPOINT), "-o", "fresh"),
    "convert --force": ("convert", str(CHECKPOINT), "-o", "export", "--integer", "--force"),
    "convert EXPORT --force": ("convert", "export", "-o", "other", "--target", "cpu", "--force"),
    "tune": ("tune", "export", "--seconds", "1"),
    "verify": ("verify", "export", "--dataset", "digits", "--device", "cpu", "--batch-size", "20"),
}
"""The first one's folder is removed where it came to be."""


class Trial:
    """A folder in which commands are stopped."""

    def __init__(self, folder: Path, *, cold: bool) -> None:
        """Make the exports that commands replace.

        Args:
            folder: An empty one.
            cold: Start an interpreter every time; else fork this one, whose imports are done.
        """
        self.cold, self.folder, self.temporary = cold, folder / "work", folder / "temporary"
        self.folder.mkdir()
        self.temporary.mkdir()
        os.environ["TMPDIR"] = str(self.temporary)
        os.chdir(self.folder)
        for command in ("convert --force", "convert EXPORT --force"):
            self.finish(command)

    def start(self, command: str) -> tuple[int, int]:
        """Start a command of the table; return its process and what it says on standard error."""
        reads, writes = os.pipe()
        process = os.fork()
        if not process:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(writes, 2)
            if self.cold:
                os.execv(sys.executable, [sys.executable, "-c", PROGRAM, *COMMANDS[command]])  # noqa: S606
            sys.argv, tempfile.tempdir = ["apot-export", *COMMANDS[command]], None
            try:
                run()
            except SystemExit as ended:
                os._exit(int(ended.code or 0))
            finally:
                os._exit(99)
        os.close(writes)
        return process, reads

    def finish(self, command: str) -> float:
        """Run a command to its end; return the seconds that it took."""
        began = time.perf_counter()
        process, said = self.start(command)
        _, status = os.waitpid(process, 0)
        with os.fdopen(said) as text:
            if status:
                sys.exit(f"{command}: status {status}\n{text.read()}")
        return time.perf_counter() - began

    def writes(self) -> bool:
        """Tell whether a command has a temporary folder."""
        return any(self.folder.glob(f"{TEMPORARY}*")) or any(self.folder.glob(f"*/{TEMPORARY}*"))

    def stop(self, command: str, number: signal.Signals, after: float, *, writing: bool) -> str:
        """Start a command and stop it; return what was wrong then, or how it ended."""
        process, said = self.start(command)
        deadline, status = time.perf_counter() + after, 0
        while time.perf_counter() < deadline:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                break
            if writing and self.writes():
                time.sleep(random.random() * 0.004)  # noqa: S311
                deadline = 0
            time.sleep(0 if writing else 0.001)
        else:
            os.kill(process, number)
            _, status = os.waitpid(process, 0)
        code, handled = os.waitstatus_to_exitcode(status), number is not signal.SIGKILL
        with os.fdopen(said) as text:
            lines = text.read().splitlines()
        problems = self.problems(handled=handled)
        if code and (code, len(lines)) != ((128 + number, 1) if handled else (-number, 0)):
            problems.append(f"exit code {code} after {after:.3f} s: {lines}")
        return "; ".join(problems) or ("as it should" if code else "finished before")

    def problems(self, *, handled: bool) -> list[str]:
        """Return what is wrong with the folder."""
        found = []
        for name in ("export", "other", "fresh"):
            export = self.folder / name
            try:
                if name != "fresh" or export.exists():
                    check_files(export, read_manifest(export))
                    require_free(export, force=True)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
                found.append(str(error))
        # PyTorch makes a folder for compiled code and leaves it.
        left = [path for path in self.temporary.iterdir() if "inductor" not in path.name]
        if handled and (self.writes() or left):
            found.append("temporary files")
        return found


def main() -> None:
    """Stop every command as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--signal", choices=["KILL", "INT", "TERM"], default="KILL")
    parser.add_argument("--cold", action="store_true", help="start an interpreter every time")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    number = signal.Signals[f"SIG{arguments.signal}"]
    with tempfile.TemporaryDirectory() as folder:
        trial, wrong = Trial(Path(folder), cold=arguments.cold), 0
        for command in COMMANDS:
            seconds, ends = trial.finish(command), Counter[str]()
            for trials in range(arguments.kills // len(COMMANDS)):
                for path in (trial.folder / "fresh").glob("*"):
                    path.unlink()
                if (trial.folder / "fresh").exists():
                    (trial.folder / "fresh").rmdir()
                writing = trials % 2 == 1
                after = 2 * seconds if writing else random.random() * seconds  # noqa: S311
                ends[trial.stop(command, number, after, writing=writing)] += 1
            print(f"{command} ({seconds:.1f} s): {dict(ends)}", flush=True)
            wrong += sum(ends.values()) - ends["as it should"] - ends["finished before"]
            if not (command == "convert" and (trial.folder / "fresh").exists()):
                trial.finish(command)
        trial.finish("convert --force")  # `tune` writes nothing where nothing is faster
        if trial.writes():
            wrong += 1
            print("the last runs left temporary folders")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
