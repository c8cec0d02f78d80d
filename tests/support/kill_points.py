"""Kill writers of exports before each of their steps, and in the middle of writing each file.

    python -m tests.support.kill_points SCENARIO FOLDER

A step is whatever may change a file system: Python tells of each before it is taken. A line of JSON
for every kill names the step, the export that was there then, and what the next run left.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from apot_export.artifacts.directory import (
    ONNX_MODEL,
    PACKED_MODEL,
    attach_to_manifest,
    check_files,
    read_manifest,
    write_export,
)
from apot_export.errors import ApotExportError

_STEPS = ("os.", "shutil.", "tempfile.", "fcntl.", "ctypes.dlsym", "open")
_SIZES = {"old": 5_000, "new": 9_000}
_FACTS = {
    "bits": 4,
    "method": "apot",
    "family": "apot-v1",
    "architecture": "ResNet-20 (CIFAR)",
    "choices": {"alpha_terms": 0, "unsigned_zeros": False},
    "checkpoint": {"path": "x", "sha256": "0"},
}


def write(export: Path, version: str) -> None:
    """Write an export, whatever is there."""
    data = version[0].encode() * _SIZES[version]
    files = {ONNX_MODEL: data, PACKED_MODEL: data + data}
    write_export(export, files, {**_FACTS, "version": version}, force=True)


def attach(export: Path, _: str) -> None:
    """Attach a verdict to an export, which makes it the new version."""
    attach_to_manifest(export, read_manifest(export), {"verdict": "PASS" * 1000})


def state(export: Path) -> str:
    """Return which version of an export is there, complete; else what is wrong."""
    if not export.exists():
        return "nothing"
    try:
        manifest = read_manifest(export)
        check_files(export, manifest)
    except ApotExportError as error:
        return str(error)
    return "new" if "verification" in manifest else str(manifest["version"])


def without_exchange() -> None:
    """Take away the call that exchanges two folders, as on other systems and file systems."""
    vars(ctypes)["CDLL"] = lambda *_, **__: None


def kill_before(number: int, told: int) -> None:
    """Arrange that this process is killed before its given step; the step goes to a descriptor."""
    steps = iter(range(1, 10_000))

    def step(event: str, details: Any) -> None:
        if event.startswith(_STEPS) and next(steps) == number:
            os.write(told, f"{event} {details}".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    synchronise = os.fsync

    def told_synchronise(descriptor: int) -> None:  # Python does not tell of it
        step("os.fsync", descriptor)
        synchronise(descriptor)

    vars(os)["fsync"] = told_synchronise
    sys.addaudithook(step)


def kill_in_file(size: int, told: int) -> None:
    """Arrange that this process is killed when a file grows beyond a size, which it then has."""
    os.write(told, f"byte {size}".encode())
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def run_killed(work: Callable[[], None], arrange: Callable[[int], None]) -> str | None:
    """Do something in a child process that is killed; return where, or None where it ended."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        arrange(writes)
        work()
        os._exit(0)
    os.close(writes)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reads) as told:
        where = told.read()
    assert os.WIFSIGNALED(status) or not os.WEXITSTATUS(status)
    return where if os.WIFSIGNALED(status) else None


def kills(work: Callable[[], None], prepare: Callable[[], None]) -> Iterator[str]:
    """Yield every point at which a work, begun anew each time, was killed."""
    prepare()
    number = 1
    while (where := run_killed(work, partial(kill_before, number))) is not None:
        yield f"{number}: {where}"
        prepare()
        number += 1
    for size in (0, 1, 400, 4_096, 8_999, 17_999):
        prepare()
        if (where := run_killed(work, partial(kill_in_file, size))) is not None:
            yield where


def main(scenario: str, folder: Path) -> None:
    """Kill one kind of writing everywhere."""
    export = folder / "parents" / "export"

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if scenario != "fresh":
            write(export, "old")

    if scenario == "without exchange":
        without_exchange()
    action = attach if scenario == "attach" else write
    work = partial(action, export, "new")
    for where in kills(work, prepare):
        before = state(export)
        work()
        left = sorted(str(path.relative_to(export.parent)) for path in export.parent.rglob("*"))
        found = {"where": where, "before": before, "after": state(export), "left": left}
        sys.stdout.write(f"{json.dumps(found)}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
