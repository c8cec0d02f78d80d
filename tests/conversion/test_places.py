"""Where exports cannot be written, or two are written at once: real commands on real disks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from apot_export.artifacts.directory import check_files, read_manifest
from tests.support.commands import CHECKPOINT, COMMAND, EXPORT, FILES, here

pytestmark = here

NOT_LEFT = "The output cannot be written; nothing of it was left behind."
CONVERT = f"{COMMAND} convert {EXPORT} --target cpu -o"


def contents(export: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in export.iterdir()}


# --- two at once ----------------------------------------------------------------------------------


def convert_together(source: object, target: str, *options: str) -> list[tuple[int, str]]:
    """Run two conversions that wait for each other when both have written their files."""
    program = (
        "import os, time\n"
        "from pathlib import Path\n"
        "from apot_export_cli.main import run\n"
        "synchronise = os.fsync\n"
        "def meet(descriptor):\n"
        "    Path('met', str(os.getpid())).touch()\n"
        "    for _ in range(6000):\n"
        "        if len(os.listdir('met')) == 2: break\n"
        "        time.sleep(0.01)\n"
        "    synchronise(descriptor)\n"
        "os.fsync = meet\n"
        "run()"
    )
    Path("met").mkdir()
    command = [sys.executable, "-c", program, "convert", str(source), "-o", target, *options]
    both = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in both]
    return sorted(zip([process.returncode for process in both], said, strict=True))


def test_two_conversions_at_once_make_one_export(folder: Path) -> None:
    (code, said), (other_code, other_said) = convert_together(CHECKPOINT, "new/export")
    assert (code, said, other_code) == (0, "", 2)
    assert NOT_LEFT in other_said
    assert {path.name for path in (folder / "new").rglob("*")} == {"export", *FILES}
    check_files(folder / "new/export", read_manifest(folder / "new/export"))


def test_two_conversions_at_once_replace_an_export_twice(folder: Path) -> None:
    shutil.copytree(EXPORT, "new/export")
    options = ("--target", "cpu", "--force")
    assert convert_together(EXPORT, "new/export", *options) == [(0, ""), (0, "")]
    assert {path.name for path in (folder / "new").rglob("*")} == {"export", *FILES}
    check_files(folder / "new/export", read_manifest(folder / "new/export"))
    assert read_manifest(folder / "new/export")["target"] == "cpu"


# --- disks and folders ----------------------------------------------------------------------------


def on_a_disk(options: str, commands: str) -> subprocess.CompletedProcess[str]:
    """Run commands of a shell where `disk` is a file system in memory of their own."""
    Path("disk").mkdir()
    mount = f"mount -t tmpfs -o {options} tmpfs disk"
    inside = ["unshare", "--map-root-user", "--mount", "/bin/sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*inside, mount], check=False).returncode:
        pytest.skip("no file system can be mounted here: unshare or mount is missing or refused")
    return subprocess.run(
        [*inside, f"{mount}; {commands}"], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("option", ["", "--force"])
def test_a_full_disk_keeps_what_was_there(option: str, folder: Path) -> None:
    name = "export" if option else "another"
    commands = f"cp -r {EXPORT} disk/export; {CONVERT} disk/{name} {option}"
    done = on_a_disk("size=96k", f"{commands}; code=$?; cp -r disk left; exit $code")
    assert done.returncode == 2
    assert NOT_LEFT in done.stderr
    assert "No space left on device" in done.stderr
    assert contents(folder / "left/export") == contents(EXPORT)
    assert list((folder / "left").iterdir()) == [folder / "left/export"]


def test_a_disk_that_only_reads_is_refused() -> None:
    done = on_a_disk("ro", f"{CONVERT} disk/parent/export")
    assert done.returncode == 2
    assert NOT_LEFT in done.stderr
    assert "Read-only file system" in done.stderr


def test_a_folder_that_only_reads_is_refused(folder: Path) -> None:
    (folder / "sealed").mkdir()
    (folder / "sealed").chmod(0o555)
    command = [*CONVERT.split(), "sealed/export"]
    if not os.geteuid():
        if not shutil.which("setpriv"):
            pytest.skip("root may write into every folder, and nothing here takes that right away")
        command = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (folder / "sealed").chmod(0o755)
    assert done.returncode == 2
    assert NOT_LEFT in done.stderr
    assert "Permission denied" in done.stderr
    assert not list(Path("sealed").iterdir())
