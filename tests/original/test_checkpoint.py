"""Reading checkpoints: whole ones give their tensors, and nothing else gives anything or runs."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from apot_export.errors import CheckpointError, UnsafeCheckpointError
from apot_export.original.checkpoint import load_checkpoint

PUBLISHED = Path("checkpoints", "CIFAR10", "result", "res20_3bit", "model_best.pth.tar")
MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
"""What PyTorch's legacy format begins with."""

Tensors = dict[str, torch.Tensor]

formats = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])

pytestmark = pytest.mark.usefixtures("in_process")


def saved(content: object, *, legacy: bool, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    torch.save(
        content,
        buffer,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=not legacy,
    )
    return buffer.getvalue()


def rewritten(data: bytes, change: Callable[[str, bytes], bytes], method: int = 0) -> bytes:
    """Write a zip archive anew with other member contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return buffer.getvalue()


def equal(first: Tensors, second: Tensors) -> bool:
    return list(first) == list(second) and all(
        torch.equal(value, second[key]) for key, value in first.items()
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoint") / "res8_4bit.pth.tar"


def refusal(file: Path, data: bytes) -> CheckpointError:
    file.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(file)
    return caught.value


# --- whole checkpoints ----------------------------------------------------------------------------


@formats
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_both_formats_and_every_protocol_load_alike(
    legacy: bool, protocol: int, state: Tensors, file: Path
) -> None:
    data = saved({"state_dict": state}, legacy=legacy, protocol=protocol)
    file.write_bytes(data)
    checkpoint = load_checkpoint(file)
    assert equal(checkpoint.state, state)
    assert checkpoint.sha256 == hashlib.sha256(data).hexdigest()
    assert checkpoint.path == file


def as_python_2_wrote(data: bytes) -> bytes:
    """Rewrite a legacy file's pickles: strings of bytes, storages of a GPU."""
    stream, written = io.BytesIO(data), b""
    while True:
        start = stream.tell()
        try:
            operations = list(pickletools.genops(stream))
        except ValueError:  # here the raw tensor data begins
            return written + data[start:]
        places = [place for _, _, place in operations] + [stream.tell()]
        for (opcode, argument, place), end in zip(operations, places[1:], strict=True):
            raw = data[place:end]
            if opcode.name == "BINUNICODE":
                text = str(argument).encode().replace(b"cpu", b"cuda:0")
                size = len(text).to_bytes(1 if len(text) < 256 else 4, "little")
                raw = (b"U" if len(text) < 256 else b"T") + size + text
            elif opcode.name == "GLOBAL":
                raw = raw.replace(b"torch\nFloatStorage", b"torch.cuda\nFloatStorage")
            written += raw


def test_a_python_2_pickle_of_cuda_tensors_loads(state: Tensors, file: Path) -> None:
    floats = {key: value for key, value in state.items() if value.dtype == torch.float32}
    data = as_python_2_wrote(saved({"state_dict": floats}, legacy=True))
    assert b"torch.cuda\nFloatStorage" in data
    assert b"cuda:0" in data
    file.write_bytes(data)
    assert equal(load_checkpoint(file).state, floats)


@formats
@pytest.mark.parametrize("key", [None, "state_dict", "model", "net_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_state_dict_is_found_where_training_codes_put_it(
    legacy: bool, key: str | None, prefix: str, state: Tensors, file: Path
) -> None:
    prefixed = {prefix + name: value for name, value in state.items()}
    content = prefixed if key is None else {"epoch": 3, key: prefixed, "optimizer": {"lr": 0.1}}
    file.write_bytes(saved(content, legacy=legacy))
    assert equal(load_checkpoint(file).state, state)


def test_the_published_checkpoint_resaved_as_zip_is_the_same(reference: Path, file: Path) -> None:
    published = load_checkpoint(reference / PUBLISHED)
    assert len(published.state) > 100
    file.write_bytes(saved(dict(published.state), legacy=False))
    assert equal(load_checkpoint(file).state, published.state)


def test_a_compressed_archive_loads_like_a_plain_one(state: Tensors, file: Path) -> None:
    plain = saved(state, legacy=False)
    file.write_bytes(rewritten(plain, lambda _, data: data, zipfile.ZIP_DEFLATED))
    assert file.stat().st_size < len(plain)
    assert equal(load_checkpoint(file).state, state)


def test_an_archive_that_was_written_without_checksums_loads(state: Tensors, file: Path) -> None:
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        file.write_bytes(saved(state, legacy=False))
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)
    assert equal(load_checkpoint(file).state, state)


# --- damage ---------------------------------------------------------------------------------------


@given(
    start=st.sampled_from([b"", b"PK", b"PK\x03\x04", b"\x80\x02", b"\x80\x04\x95", MAGIC]),
    rest=st.one_of(st.binary(max_size=100), st.binary(min_size=1000, max_size=5000)),
)
def test_random_bytes_are_refused(start: bytes, rest: bytes, file: Path) -> None:
    refusal(file, start + rest)


@formats
def test_a_checkpoint_cut_at_any_length_is_refused(
    legacy: bool, state: Tensors, file: Path
) -> None:
    data = saved({"epoch": 1, "state_dict": state}, legacy=legacy)
    lengths = {*range(0, 400, 7), *range(0, len(data), 997), *range(len(data) - 40, len(data))}
    for length in sorted(lengths):
        assert str(file) in str(refusal(file, data[:length])), length


def test_the_published_checkpoint_cut_short_is_refused(reference: Path, file: Path) -> None:
    data = (reference / PUBLISHED).read_bytes()
    for length in [1, 100, len(data) // 100, len(data) // 2, len(data) - 1]:
        refusal(file, data[:length])


def test_a_flipped_bit_in_an_archive_is_refused_or_harmless(state: Tensors, file: Path) -> None:
    data = bytearray(saved(state, legacy=False))
    refused = 0
    for position in range(5, len(data), len(data) // 150):
        data[position] ^= 1 << position % 8
        file.write_bytes(data)
        data[position] ^= 1 << position % 8
        try:
            assert equal(load_checkpoint(file).state, state), position
        except CheckpointError:
            refused += 1
    assert refused > 75  # the rest is padding and what the archive states twice


def test_a_flipped_bit_in_a_weight_is_found(state: Tensors, file: Path) -> None:
    data = bytearray(saved(state, legacy=False))
    place = data.index(state["fc.weight"].numpy().tobytes())
    data[place + 2] ^= 1
    assert "CRC-32" in str(refusal(file, bytes(data)))


def test_a_flipped_bit_in_a_legacy_file_never_crashes(state: Tensors, file: Path) -> None:
    data = bytearray(saved(state, legacy=True))
    for position in range(0, 8000, 29):
        data[position] ^= 1 << position % 8
        file.write_bytes(data)
        data[position] ^= 1 << position % 8
        with suppress(CheckpointError):
            load_checkpoint(file)


# --- code -----------------------------------------------------------------------------------------


class Payload:
    """An object that runs a function of its choice when a careless program unpickles it."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


class Custom:
    """A class of somebody's training code."""


def payloads(marker: Path) -> dict[str, tuple[object, str]]:
    """Return objects by name with the global that each wants."""
    command = f"open({str(marker)!r}, 'w')"
    system = f"{os.system.__module__}.system"
    return {
        "system": (Payload(os.system, f"touch {marker}"), system),
        "eval": (Payload(eval, command), "eval"),
        "exec": ([Payload(eval, command), Payload(exec, command)], "exec"),
        "open": (Payload(open, str(marker), "w"), "open"),
        "torch.load": (Payload(torch.load, str(marker)), "torch.serialization.load"),
        "torch.hub": (Payload(torch.hub.load, "nobody/nothing", "net"), "torch.hub.load"),
        "class": (Custom(), f"{Custom.__module__}.Custom"),
        "module": (torch.nn.Sequential(torch.nn.ReLU()), "torch.nn.modules.container.Sequential"),
    }


NAMES = list(payloads(Path()))


def check_not_run(file: Path, data: bytes, marker: Path, wanted: str) -> None:
    error = refusal(file, data)
    assert not marker.exists()
    assert isinstance(error, UnsafeCheckpointError), error
    assert error.got is not None
    assert any(name.endswith(wanted) for name in error.got.split(", ")), error
    assert "torch.save" in str(error.fix)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", NAMES)
def test_a_plain_pickle_runs_nothing(name: str, protocol: int, file: Path, tmp_path: Path) -> None:
    payload, wanted = payloads(tmp_path / "marker")[name]
    check_not_run(file, pickle.dumps(payload, protocol), tmp_path / "marker", wanted)


@formats
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_checkpoint_runs_nothing(
    legacy: bool, name: str, protocol: int, file: Path, tmp_path: Path
) -> None:
    payload, wanted = payloads(tmp_path / "marker")[name]
    content = {"state_dict": {"weight": torch.zeros(2)}, "optimizer": {"state": payload}}
    data = saved(content, legacy=legacy, protocol=protocol)
    check_not_run(file, data, tmp_path / "marker", wanted)


def test_a_payload_would_run_where_loading_is_careless(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(payloads(marker)["system"][0]))  # noqa: S301 - shows that it works
    assert marker.exists()


# --- content --------------------------------------------------------------------------------------


@formats
@pytest.mark.parametrize(
    "content",
    [[1, 2], 7, "text", None, torch.zeros(3), {}, {"state_dict": {}}, {"a": 1}],
    ids=str,
)
def test_what_is_no_state_dict_is_refused(content: object, legacy: bool, file: Path) -> None:
    error = refusal(file, saved(content, legacy=legacy))
    assert error.what == "The checkpoint holds no state dict."


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("content", [[1, 2], 7, {"a": 1.0}], ids=str)
def test_a_plain_pickle_is_refused(content: object, protocol: int, file: Path) -> None:
    assert "no state dict" in str(refusal(file, pickle.dumps(content, protocol)))


def test_keys_that_are_no_names_are_refused(file: Path) -> None:
    deep: tuple[object, ...] = ()
    for _ in range(900):
        deep = (deep,)
    refusal(file, saved({1: torch.zeros(2), "a": torch.zeros(2)}, legacy=False))
    pickled = b"\x80\x02})" + b"\x85" * 5000 + b"K\x01s."
    template = saved({}, legacy=False)
    data = rewritten(template, lambda name, old: pickled if name.endswith(".pkl") else old)
    refusal(file, data)


@formats
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool, torch.complex64])
def test_weights_of_another_type_are_refused(
    dtype: torch.dtype, legacy: bool, state: Tensors, file: Path
) -> None:
    changed = {**state, "fc.weight": state["fc.weight"].to(dtype)}
    error = refusal(file, saved(changed, legacy=legacy))
    assert error.where == "fc.weight"
    assert error.got is not None
    assert str(dtype) in error.got


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2, 2).to_sparse(), torch.empty(2, device="meta"), torch.zeros(0, 3)],
    ids=["sparse", "without values", "empty"],
)
def test_tensors_that_hold_no_plain_values_are_refused(
    tensor: torch.Tensor, state: Tensors, file: Path
) -> None:
    changed = {**state, "fc.weight": tensor}
    assert refusal(file, saved(changed, legacy=False)).where == "fc.weight"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.pth.tar", tmp_path / ("long" * 100)):
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(path)
        assert caught.value.where == str(path)
