"""Pickles that try to run something: whatever their opcodes, nothing is imported, called or set."""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from apot_export.errors import CheckpointError, UnsafeCheckpointError
from apot_export.original import _pickles
from apot_export.original.checkpoint import load_checkpoint

SYSTEM = f"{os.system.__module__}\nsystem\n".encode()
NAMES = sorted(_pickles._MAKERS)
STAND_INS = (
    *NAMES,
    *("argparse.Namespace", "http.HTTPStatus", "enum.Enum", "pathlib.PosixPath", "numpy.ndarray"),
    *("datetime.datetime", "copyreg._reconstructor", "copyreg.__newobj__", "numpy.dtype"),
    *("numpy._core.multiarray._reconstruct", "numpy._core.numeric._frombuffer", "builtins.object"),
    *("torch.storage._load_from_bytes", "torch._tensor._rebuild_from_type_v2", "torch.Size"),
    *("torch._utils._rebuild_sparse_tensor", "omegaconf.DictConfig", "binarynet.ConvLayer_bin"),
)

pytestmark = pytest.mark.usefixtures("in_process")


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def command(marker: Path) -> bytes:
    return text(f"touch {marker}")


def named(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "marker"
    yield path
    assert not path.exists()


def archive(pickled: bytes) -> bytes:
    """Return a zip archive of PyTorch's with another pickle in it."""
    template, buffer = io.BytesIO(), io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, template)
    with zipfile.ZipFile(template) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    return buffer.getvalue()


def refused(pickled: bytes, folder: Path) -> CheckpointError:
    """Load bytes as a plain pickle and inside an archive; return the error of the latter."""
    path = folder / "net_4bit.pth"
    for data in (pickled, archive(pickled)):
        path.write_bytes(data)
        modules = {*sys.modules}
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(path)
        assert "antigravity" not in {*sys.modules} - modules
    return caught.value


def calls(marker: Path) -> dict[str, bytes]:
    """Return pickles that call os.system in every way that the format has."""
    system, argument = b"c" + SYSTEM, command(marker)
    mine = named("argparse.Namespace")
    return {
        "REDUCE": system + argument + b"\x85R.",
        "NEWOBJ": b"\x80\x02" + system + argument + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04" + system + argument + b"\x85}\x92.",
        "INST": b"(" + argument + b"i" + SYSTEM + b".",
        "OBJ": b"(" + system + argument + b"o.",
        "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93" + argument + b"\x85R.",
        "BUILD with __setstate__": mine
        + b")\x81}"
        + text("__setstate__")
        + system
        + b"sb"
        + argument
        + b"b.",
        "BUILD of a class": mine + b"N}" + text("__new__") + system + b"s\x86b)\x81.",
        "BUILD of slots": mine
        + b")\x81N}"
        + text("__class__")
        + system
        + b"s\x86b"
        + argument
        + b"b.",
        "persistent id": b"(" + text("storage") + system + text("0") + text("cpu") + b"K\x02tQ.",
        "persistent text": b"Pos.system\n.",
        "a module's persistent id": b"("
        + text("module")
        + system
        + text("a")
        + text("b")
        + b"tQ"
        + argument
        + b"\x85R.",
        "import": named("antigravity.fly") + b".",
        "attribute of an attribute": b"\x80\x04"
        + text("torch")
        + text("serialization.os.system")
        + b"\x93"
        + argument
        + b"\x85R.",
    }


@pytest.mark.parametrize("way", calls(Path("marker")))
def test_no_opcode_calls(way: str, marker: Path) -> None:
    assert refused(calls(marker)[way], marker.parent)


def test_the_first_would_run_where_loading_is_careless(tmp_path: Path) -> None:
    for way in ("REDUCE", "INST", "OBJ"):
        pickle.loads(calls(tmp_path / way)[way])  # noqa: S301 - shows that it works
        assert (tmp_path / way).exists()


@pytest.mark.parametrize("opcode", [b"\x82\xf7", b"\x83\xf7\x00", b"\x84\xf7\x00\x00\x00"])
def test_extension_codes_call_nothing(opcode: bytes, marker: Path) -> None:
    module = os.system.__module__
    copyreg.add_extension(module, "system", 0xF7)
    try:
        refused(b"\x80\x02" + opcode + command(marker) + b"\x85R.", marker.parent)
    finally:
        copyreg.remove_extension(module, "system", 0xF7)


@pytest.mark.parametrize("name", STAND_INS)
def test_what_stands_in_runs_nothing_of_its_arguments(name: str, marker: Path) -> None:
    system, argument = b"c" + SYSTEM, command(marker)
    called = system + argument + b"\x85R"
    made = [
        *(b"(" + part * count + b"tR." for part in (called, argument) for count in (1, 2, 4)),
        *(b"(" + part * 7 + b"tR." for part in (system, b"}", b"K\xff", b")", b"N")),
        b"(" + argument + b"tR}" + text("__setstate__") + system + b"sb" + argument + b"b.",
        b"(" + argument + b"tR" + argument + b"\x85R.",
        b"\x85R.",
    ]
    for rest in made:
        refused(named(name) + rest, marker.parent)


class Text(str):
    """A kind of text of somebody's training code."""

    __slots__ = ()


@pytest.mark.parametrize("protocol", range(6))
def test_kinds_of_text_as_names_are_named(protocol: int, tmp_path: Path) -> None:
    data = pickle.dumps({Text("fc.weight"): torch.zeros(2)}, protocol)
    error = refused(data, tmp_path)
    assert isinstance(error, UnsafeCheckpointError)
    assert f"{__name__}.Text" in str(error.got)


@pytest.mark.parametrize("depth", [100, 100_000])
def test_deep_nesting_crashes_nothing(depth: int, tmp_path: Path) -> None:
    tuples = b")" + b"\x85" * depth
    lists = b"]" * depth + b"a" * (depth - 1)
    for value in (tuples, lists):
        for pickled in (value + b".", b"}" + value + b"K\x01s.", b"(" + value + b"\x91."):
            refused(b"\x80\x04" + pickled, tmp_path)


def test_what_holds_itself_is_looked_through_once(tmp_path: Path) -> None:
    content: dict[str, Any] = {"epoch": 3}
    content["self"] = [content, (content,)]
    path = tmp_path / "net_4bit.pth"
    for weights in ({}, {"net": {"fc.weight": torch.zeros(2)}}):
        torch.save({**content, **weights, "again": content}, path)
        if weights:
            assert list(load_checkpoint(path).state) == ["fc.weight"]
        else:
            with pytest.raises(CheckpointError, match="no state dict"):
                load_checkpoint(path)


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((9,), (1,), 0), ((2,), (1,), 2), ((2,), (-1,), 1), ((-1,), (1,), 0)],
)
def test_tensors_beyond_their_storage_are_refused(
    size: tuple[int, ...], stride: tuple[int, ...], offset: int, tmp_path: Path
) -> None:
    numbers = torch.arange(3.0)
    path = tmp_path / "net_4bit.pth"

    class Rebuilt:
        def __reduce__(self) -> Any:
            storage = numbers._typed_storage()  # type: ignore[no-untyped-call]
            return torch._utils._rebuild_tensor_v2, (storage, offset, size, stride, False, {})

    for legacy in (False, True):
        torch.save({"fc.weight": Rebuilt()}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError, match="not a readable"):
            load_checkpoint(path)


@pytest.mark.parametrize("state", [b"]", b"(tN", b"(K\x01K\x02K\x03K\x04K\x05t", b"}"])
def test_damaged_arrays_are_refused(state: bytes, tmp_path: Path) -> None:
    array = named("numpy._core.multiarray._reconstruct") + b"(tR" + state + b"b"
    error = refused(b"}" + text("fc.weight") + array + b"s.", tmp_path)
    assert error.where in ("fc.weight", str(tmp_path / "net_4bit.pth"))
