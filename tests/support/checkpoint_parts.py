"""Checkpoints changed anywhere: opcodes of pickles, members of archives, headers of safetensors."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import save

from tests.support.fuzzing import damaged
from tests.support.malformed_networks import mutate

INTEGERS = [
    0,
    1,
    2,
    3,
    7,
    -1,
    -2,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    1 << 40,
    1 << 62,
    -(1 << 63),
]
NAMES = (
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor", "torch FloatStorage"),
    *("torch._utils _rebuild_tensor_v3", "torch HalfStorage", "torch.storage UntypedStorage"),
    *(
        "torch._utils _rebuild_parameter",
        "torch.nn.parameter Parameter",
        "torch float64",
        "torch Size",
    ),
    *("torch.storage _load_from_bytes", "torch._tensor _rebuild_from_type_v2", "torch int8"),
    *("collections OrderedDict", "collections defaultdict", "builtins set", "builtins bytearray"),
    *("_codecs encode", "copyreg _reconstructor", "numpy dtype", "numpy ndarray"),
    *("numpy._core.multiarray _reconstruct", "numpy._core.multiarray scalar"),
    *("numpy._core.numeric _frombuffer", "argparse Namespace", "os system", "datetime datetime"),
)


def _tensors() -> dict[str, torch.Tensor]:
    whole = torch.arange(24.0).reshape(2, 3, 4)
    return {
        "fc.weight": whole,
        "fc.bias": whole[0, 1],
        "half": torch.ones(3, dtype=torch.float16),
        "bn.num_batches_tracked": torch.tensor(3),
    }


def _saved(content: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@cache
def sound_checkpoints() -> dict[str, bytes]:
    """Return checkpoints in all containers that are read."""
    tensors = _tensors()
    beside = {"epoch": 3, "best_acc1": 91.5, "args": {"lr": [0.1, None, True, "x", (1, 2)]}}
    arrays = {"fc.weight": np.arange(6.0, dtype=np.float32).reshape(2, 3), "n": np.float64(2)}
    return {
        "archive.pth": _saved({"state_dict": tensors, **beside}),
        "bare.pth": _saved(tensors),
        "legacy.pth": _saved({"state_dict": tensors, **beside}, legacy=True),
        "arrays.pkl": pickle.dumps({"state_dict": arrays, **beside}, 4),
        "old_arrays.pkl": pickle.dumps(arrays, 2),
        "pickled.pkl": pickle.dumps({"state_dict": tensors}, 3),
        "net.safetensors": save({key: tensor.clone() for key, tensor in tensors.items()}),
    }


# --- pickles --------------------------------------------------------------------------------------


def opcodes(pickled: bytes) -> list[bytes]:
    """Return the opcodes of the first pickle of a stream, each with its argument.

    Where it was changed before, these are the opcodes before the first damage.
    """
    starts: list[int] = []
    with suppress(ValueError, IndexError, AttributeError):
        starts += (place for _, _, place in pickletools.genops(pickled) if place is not None)
    ends = [*starts[1:], starts[-1] + 1] if starts else []
    return [pickled[begin:end] for begin, end in zip(starts, ends, strict=True)]


def _number(data: st.DataObject) -> bytes:
    value = data.draw(st.sampled_from(INTEGERS))
    kind = data.draw(st.sampled_from("KMJI"))
    if kind == "I":
        return f"I{value}\n".encode()
    size = {"K": 1, "M": 2, "J": 4}[kind]
    return kind.encode() + (value & (1 << 8 * size) - 1).to_bytes(size, "little")


def _long(data: st.DataObject) -> bytes:
    raw = pickle.encode_long(data.draw(st.sampled_from(INTEGERS)))
    return b"\x8a" + bytes([len(raw)]) + raw


def _text(data: st.DataObject) -> bytes:
    text = data.draw(
        st.sampled_from(["storage", "cpu", "0", "1", "fc.weight", "f4", "<", "O", "", "\ud83d"])
    ).encode("utf-8", "surrogatepass")
    size = data.draw(st.sampled_from([len(text), len(text), len(text), 200, (1 << 32) - 1]))
    return b"X" + size.to_bytes(4, "little") + text


def _global(data: st.DataObject) -> bytes:
    module, name = data.draw(st.sampled_from(NAMES)).split()
    return f"c{module}\n{name}\n".encode()


def _memo(data: st.DataObject) -> bytes:
    kind = data.draw(st.sampled_from([b"h", b"q"]))
    return kind + bytes([data.draw(st.integers(0, 40))])


def _plain(data: st.DataObject) -> bytes:
    """Return an opcode without argument."""
    codes = "()]}NteauslbRQ.0120d\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94"
    return data.draw(st.sampled_from(codes)).encode("latin1")


def _bytes_of_any_size(data: st.DataObject) -> bytes:
    kind, width = data.draw(
        st.sampled_from([("B", 4), ("\x8e", 8), ("\x96", 8), ("\x95", 8), ("\x8b", 4)])
    )
    size = data.draw(st.sampled_from([0, 3, 60, (1 << 31) - 1, (1 << 32) - 1]))
    return kind.encode("latin1") + size.to_bytes(width, "little") + b"abc"


OPCODES: list[Callable[[st.DataObject], bytes]] = [
    *(_number, _long, _text, _global, _memo, _plain, _plain, _bytes_of_any_size),
]

CHANGES = ("put in", "put in", "replace", "remove", "again", "many")


def changed_pickle(data: st.DataObject, pickled: bytes) -> bytes:
    """Change a pickle in a few opcodes; what follows it stays."""
    codes = opcodes(pickled)
    rest = pickled[sum(map(len, codes)) :]
    for _ in range(data.draw(st.sampled_from([1, 1, 1, 2, 3, 4]))):
        place = data.draw(st.integers(0, len(codes)))
        new = data.draw(st.sampled_from(OPCODES))(data)
        match data.draw(
            st.sampled_from(["put in", "put in", "replace", "remove", "again", "many"])
        ):
            case "put in":
                codes.insert(place, new)
            case "replace":
                codes[place : place + 1] = [new]
            case "remove":
                del codes[place : place + data.draw(st.integers(1, 3))]
            case "again":
                other = data.draw(st.integers(0, len(codes)))
                codes[place:place] = codes[other : other + data.draw(st.integers(1, 12))]
            case "many":
                codes.insert(place, new * data.draw(st.sampled_from([3, 40, 3000])))
    return b"".join(codes) + rest


# --- archives -------------------------------------------------------------------------------------


def changed_archive(data: st.DataObject, content: bytes) -> bytes:
    """Change members of a zip archive, under right checksums."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(members) - 1))
        name, member = members[place]
        if name.endswith("data.pkl") and data.draw(st.integers(0, 4)):
            members[place] = name, changed_pickle(data, member)
            continue
        match data.draw(st.sampled_from(["content", "name", "remove", "again"])):
            case "content":
                members[place] = name, damaged(data, member)
            case "name":
                others = [
                    "archive/data.pkl",
                    "archive/data/9",
                    "data.pkl",
                    "../x",
                    "archive/byteorder",
                ]
                members[place] = data.draw(st.sampled_from(others)), member
            case "remove" if len(members) > 1:
                del members[place]
            case _:
                members.append((name, member))
    buffer = io.BytesIO()
    kinds = [zipfile.ZIP_STORED] * 4 + [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, member in members:
            entry = zipfile.ZipInfo(name)
            if name not in archive.namelist():
                archive.writestr(entry, member, data.draw(st.sampled_from(kinds)))
    return buffer.getvalue()


def changed_directory(data: st.DataObject, content: bytes) -> bytes:
    """Change a field of a zip archive's directory, or of an entry's own header."""
    marks = [b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06"]
    places = [place for mark in marks for place in _all_places(content, mark)]
    place = data.draw(st.sampled_from(places)) + data.draw(st.integers(4, 45))
    value = data.draw(st.sampled_from([0, 1, 8, 12, 255, 0xFFFF, 0xFFFFFFFF, 1 << 31]))
    raw = value.to_bytes(4, "little")[: data.draw(st.sampled_from([1, 2, 4]))]
    return content[:place] + raw + content[place + len(raw) :]


def _all_places(content: bytes, mark: bytes) -> list[int]:
    return [place for place in range(len(content)) if content.startswith(mark, place)]


# --- safetensors, and all of them -----------------------------------------------------------------


def changed_safetensors(data: st.DataObject, content: bytes) -> bytes:
    (size,) = struct.unpack("<Q", content[:8])
    header: Any = mutate(data, json.loads(content[8 : 8 + size]))
    raw = json.dumps(header).encode()
    stated = data.draw(st.sampled_from([len(raw)] * 6 + [0, 2, 1 << 31, (1 << 64) - 1]))
    return struct.pack("<Q", stated) + raw + content[8 + size :]


def changed_checkpoint(data: st.DataObject) -> tuple[str, bytes]:
    """Return the name and the bytes of a checkpoint that is changed in a few places."""
    name = data.draw(st.sampled_from(sorted(sound_checkpoints())))
    content = sound_checkpoints()[name]
    if name.endswith(".safetensors"):
        content = changed_safetensors(data, content)
    elif content.startswith(b"PK"):
        change = changed_directory if data.draw(st.integers(0, 4)) == 0 else changed_archive
        content = change(data, content)
    elif name == "legacy.pth":
        content = _changed_stream(data, content)
    else:
        content = changed_pickle(data, content)
    return name, damaged(data, content) if data.draw(st.integers(0, 9)) == 0 else content


def _changed_stream(data: st.DataObject, content: bytes) -> bytes:
    """Change one of the pickles of PyTorch's format before 1.6."""
    start = 0
    for _ in range(data.draw(st.sampled_from([0, 1, 2, 3, 3, 3, 3, 4]))):
        start += sum(map(len, opcodes(content[start:])))
    return content[:start] + changed_pickle(data, content[start:])
