"""Checkpoints that ask for too much, or break their reader: an error of this process, soon.

Every file is read by a process of its own, and by this one.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import apot_export
from apot_export.errors import CheckpointError
from apot_export.original import reading
from apot_export.original._child import LIMITS, limits
from apot_export.original.checkpoint import load_checkpoint
from tests.support.commands import run

LITTLE = 4 << 20
"""Bytes that files may ask for here, so that small files ask for too much."""
DEEP = 300_000


@pytest.fixture(params=[False, True], ids=["in the child", "in process"])
def either(request: pytest.FixtureRequest) -> Iterator[None]:
    with apot_export.in_process(wanted=request.param):
        yield


def rebuilt(numbers: torch.Tensor, size: tuple[int, ...], stride: tuple[int, ...]) -> Any:
    """Return what is pickled as a tensor of this size and stride."""

    class Rebuilt:
        def __reduce__(self) -> Any:
            storage = numbers._typed_storage()  # type: ignore[no-untyped-call]
            return torch._utils._rebuild_tensor_v2, (storage, 0, size, stride, False, {})

    return Rebuilt()


def saved(content: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def zipped(method: int, size: int = 0) -> bytes:
    """Return an archive of PyTorch's whose members are compressed, with so many zeros in it."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved({"weight": torch.zeros(2)}))) as old,
        zipfile.ZipFile(buffer, "w", method) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("archive/data/1", bytes(size))
    return buffer.getvalue()


def overlapping() -> bytes:
    """Return an archive that has one member a thousand times in its directory."""
    buffer = io.BytesIO(saved({"weight": torch.zeros(1000)}))
    with zipfile.ZipFile(buffer, "a") as archive:
        (entry,) = (entry for entry in archive.filelist if entry.filename.endswith("data/0"))
        archive.filelist.extend([entry] * 1000)
        archive._didModify = True  # type: ignore[attr-defined]
    return buffer.getvalue()


def encrypted() -> bytes:
    data = bytearray(zipped(zipfile.ZIP_STORED))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def header(size: int, content: object, *data: int) -> bytes:
    """Return a safetensors file that declares the size of its header."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", size or len(raw)) + raw + bytes(data)


def entry(start: int, end: int, *shape: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def text(value: bytes) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value


TRILLION = {"fc.weight": rebuilt(torch.ones(1), (1 << 40,), (0,))}
NESTED_KEY = b"\x80\x04})" + b"\x85" * DEEP + b"K\x01s."
SEVERAL = 2 * LITTLE // 1000
"""Times that a thousand bytes are too much."""
DICT = b"}(" + b"".join(b"K%cN" % n for n in range(99)) + b"u"
ASKING: dict[str, bytes] = {
    "many steps": b"\x80\x04" + b"N0" * (LITTLE // 64) + b".",
    "a text that is encoded again and again": b"\x80\x04"
    + text(b"x" * 1000)
    + b"\x940c_codecs\nencode\n\x940"
    + b"h\x01h\x00\x85R0" * SEVERAL
    + b"N.",
    "a list that is copied again and again": b"\x80\x04]("
    + b"N" * 999
    + b"e\x940cbuiltins\nlist\n\x940"
    + b"h\x01h\x00\x85R0" * SEVERAL
    + b"N.",
    "a dict that is copied again and again": b"\x80\x04"
    + DICT
    + b"\x940cargparse\nNamespace\n)\x81"
    + b"h\x00b" * SEVERAL
    + b".",
    "a number named a trillion times": saved(TRILLION),
    "a number named a trillion times, before 1.6": saved(TRILLION, legacy=True),
    "a storage named by many tensors": saved(
        [numbers[n:] for numbers in [torch.ones(1000)] for n in range(SEVERAL // 4)]
    ),
    "a deflated member that is large": zipped(zipfile.ZIP_DEFLATED, 2 * LITTLE),
    "a long header of safetensors": header(0, {"__metadata__": {"a": "x" * (LITTLE // 30)}}),
}


@pytest.mark.parametrize("kind", ASKING)
@pytest.mark.usefixtures("either")
def test_what_asks_for_much_is_refused_and_allowed_as_advised(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"net_4bit{'.safetensors' if 'safetensors' in kind else '.pth'}"
    path.write_bytes(ASKING[kind])
    with apot_export.max_memory(LITTLE), pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert "asks for more" in caught.value.what, caught.value
    assert str(path) in str(caught.value.where)
    error: CheckpointError | None = caught.value
    rounds = 0
    while error and "asks for more" in error.what and "trillion" not in kind:
        error = refusal(path, int(str(error.fix).partition("--max-memory ")[2].split()[0]))
        rounds += 1
    assert rounds <= 5, error


def refusal(path: Path, memory: int) -> CheckpointError | None:
    with apot_export.max_memory(memory):
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            return error
    return None


REFUSED: dict[str, bytes] = {
    "a key nested deep": NESTED_KEY,
    "a key nested deep, of a dict's pairs": b"\x80\x04cbuiltins\ndict\n](N)"
    + b"\x85" * DEEP
    + b"tK\x01\x86a\x85R.",
    "a storage's key nested deep": b"\x80\x04("
    + text(b"storage")
    + b"ctorch\nFloatStorage\n)"
    + b"\x85" * DEEP
    + text(b"cpu")
    + b"K\x02tQ.",
    "a global's name nested deep": b"\x80\x04)" + b"\x85" * DEEP + b"N\x93.",
    "a shape nested deep": b"\x80\x04cnumpy.core.numeric\n_frombuffer\n(NN)"
    + b"\x85" * DEEP
    + b"NtR.",
    "bytes that are not there": b"\x80\x05\x96" + struct.pack("<Q", 1 << 50) + b"x.",
    "a text that is not there": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 50) + b"x.",
    "bytes of a number": b"\x80\x04cbuiltins\nbytes\n\x8a\x06"
    + bytes([0, 0, 0, 0, 0, 1])
    + b"\x85R.",
    "bzip2": zipped(zipfile.ZIP_BZIP2, 1 << 20),
    "lzma": zipped(zipfile.ZIP_LZMA, 1 << 20),
    "encrypted members": encrypted(),
    "members that overlap": overlapping(),
    "a header longer than the file": header(1 << 40, {}),
    "a header nested deep": header(0, b"[" * 100_000),
    "tensors on each other": header(
        0, {f"{n}.weight": entry(0, 8, 2) for n in range(9)}, *bytes(8)
    ),
    "a tensor of another size": header(0, {"fc.weight": entry(0, 8, 3)}, *bytes(8)),
    "a tensor of a negative size": header(0, {"fc.weight": entry(0, 8, -1, -2)}, *bytes(8)),
    "a tensor outside of the file": header(0, {"fc.weight": entry(0, 8, 2)}, *bytes(4)),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.usefixtures("either")
def test_what_is_no_checkpoint_is_refused(kind: str, tmp_path: Path) -> None:
    is_safe = "header" in kind or "tensor" in kind
    path = tmp_path / f"net_4bit{'.safetensors' if is_safe else '.pth'}"
    path.write_bytes(REFUSED[kind])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value.where)


def test_storages_that_the_file_does_not_have_are_refused(tmp_path: Path) -> None:
    data = saved({"fc.weight": torch.ones(3)}, legacy=True)
    keys = data.rindex(b"\x80\x02]")
    path = tmp_path / "net_4bit.pth"
    path.write_bytes(data[:keys] + b"\x80\x02].")
    with pytest.raises(CheckpointError, match="not in the file"):
        load_checkpoint(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals that kill")
@pytest.mark.parametrize(
    ("ends", "expected", "got"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "a file that can be read", "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGXCPU)", "at most 20 s of a processor", "SIGXCPU"),
        ("raise MemoryError", "a file that can be read", "exit code 1: MemoryError"),
        (
            "sys.exit(str([resource.getrlimit(getattr(resource, n))[0] for n in limits]))",
            "a file that can be read",
            f"exit code 1: {[*limits(64)]}",
        ),
    ],
)
def test_what_ends_the_reader_is_an_error_here(
    ends: str, expected: str, got: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("resource")
    names = f"import os, resource, signal; limits = {LIMITS}"
    monkeypatch.setattr(reading, "_PROGRAM", f"{reading._PROGRAM}; {names}; {ends}")
    path = tmp_path / "net_4bit.pth"
    path.write_bytes(b"N.".ljust(64, b"."))
    with pytest.raises(CheckpointError, match="was stopped") as caught:
        load_checkpoint(path)
    error = caught.value
    assert (error.where, error.expected, error.got) == (str(path), expected, got)
    with apot_export.in_process(), pytest.raises(CheckpointError, match="no state dict"):
        load_checkpoint(path)


def test_where_no_process_can_be_started_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net_4bit.pth"
    path.write_bytes(saved({"fc.weight": torch.ones(3)}))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(CheckpointError, match="cannot be started") as caught:
        load_checkpoint(path)
    assert "--in-process" in str(caught.value.fix)
    with apot_export.in_process():
        assert torch.equal(load_checkpoint(path).state["fc.weight"], torch.ones(3))
    for verb in (["convert"], ["inspect", "alphas"], ["inspect", "identify"]):
        assert "--in-process" in run(*verb, path).stderr
        assert "cannot be started" not in run(*verb, path, "--in-process").stderr


def test_a_checkpoint_may_be_written_again_once_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net_4bit.pth"
    for legacy in (False, True):
        path.write_bytes(saved({"fc.weight": torch.ones(1 << 16)}, legacy=legacy))
        state = load_checkpoint(path).state
        path.write_bytes(b"")
        assert torch.equal(state["fc.weight"], torch.ones(1 << 16))
