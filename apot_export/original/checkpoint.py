"""Reading `.pth.tar` files without running anything that is in them."""

from __future__ import annotations

import hashlib
import io
import pickle
import pickletools
import re
import reprlib
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from apot_export.errors import CheckpointError, UnsafeCheckpointError, WeightError
from apot_export.network.layers import MultiBitWeights
from apot_export.original.multi_bit import PICKLED_BASES, multi_bit_weights
from apot_export.original.record import PICKLED_NUMBERS, Record, record_of
from apot_export.original.weight_sets import (
    STATE_DICT_KEYS,
    chosen_weights,
    listed,
    weight_sets,
)

_MULTI_BIT_KEY = "parameters_w_bin"
_DATA_PARALLEL_PREFIX = "module."
_COUNTER_SUFFIX = "num_batches_tracked"
_AVERAGES_COUNTER = "n_averaged"
"""What torch.optim.swa_utils.AveragedModel keeps beside the weights."""
_READ_BYTES = 1 << 20
_SHOWN_BYTES = 8
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF"
"""What the first bytes of PyTorch's format before 1.6 hold: its magic number, pickled."""
_UNSUPPORTED_OPCODE = re.compile(r"Unsupported operand (\d+)")
_SHOWN_KEYS = 8
_TENSOR_GLOBALS = re.compile(
    r"(__builtin__|builtins)\.(bytearray|complex|set)"
    r"|_codecs\.encode|collections\.(Counter|OrderedDict|defaultdict)"
    r"|torch\.(Size|Tensor|device|bool|(storage\.)?\w+Storage|(b?float|complex|q?u?int)\d+\w*)"
    r"|torch\.cuda\.\w+Storage|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|binarynet\.(Conv|FC)Layer_bin|numpy\.(dtype|_?core\.multiarray\.scalar)"
    r"|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
)
"""Globals that the safe loader resolves itself."""
_NO_PICKLE = (LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, struct.error)
"""What the safe unpickler and the legacy reader raise on bytes that only look like a pickle."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """The tensors of a checkpoint and where they came from."""

    path: Path
    sha256: str
    state: dict[str, torch.Tensor]
    """State dict on the CPU, without the DataParallel prefix, in file order."""
    bare: bool = False
    """Whether the file holds the state dict itself, without epoch or accuracy around it."""
    multi_bit: tuple[MultiBitWeights, ...] = ()
    """Weights as scaled sign vectors, in the order of the network's layers, where there are any."""
    record: Record | None = None
    """The accuracy that the training run recorded in the file."""
    record_note: str | None = None
    """A sentence on recorded values that cannot be accuracies."""

    @property
    def keys(self) -> list[str]:
        """Names by which families are recognised."""
        return [*self.state, *([_MULTI_BIT_KEY] if self.multi_bit else [])]


def require_checkpoint_file(path: Path) -> None:
    """Raise `CheckpointError` unless a path is that of a file."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise CheckpointError(
            "The checkpoint is not there.",
            where=str(path),
            got=error.strerror,
            fix="check the path",
        ) from error
    if not stat.S_ISREG(mode):
        raise CheckpointError(
            "The checkpoint is not a file.",
            where=str(path),
            expected="a .pth.tar file",
            fix="name the checkpoint file inside the folder",
        )


def load_checkpoint(path: Path, weights: str | None = None) -> Checkpoint:
    """Load a checkpoint's state dict on the CPU, safely.

    Args:
        path: The file.
        weights: Which of several sets of weights to take, as "state_dict_ema".

    Raises:
        UnsafeCheckpointError: The pickle wants globals other than tensors' own; nothing was run.
        CheckpointError: The file is missing, no checkpoint, damaged, or holds no state dict.
    """
    require_checkpoint_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickles and tensors that are refused below
        content = _load_safely(path)
    state = _state_dict(content, path, weights)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else None
        if digest is None:  # Python 3.10
            digest = hashlib.sha256(file.read())
    record, note = record_of(content)
    wrapped = isinstance(content, Mapping) and not {*STATE_DICT_KEYS}.isdisjoint(content)
    return Checkpoint(
        path=path,
        sha256=digest.hexdigest(),
        state=state,
        bare=not wrapped and weights is None,
        multi_bit=_multi_bit(content),
        record=record,
        record_note=note,
    )


def _multi_bit(content: object) -> tuple[MultiBitWeights, ...]:
    entries = content.get(_MULTI_BIT_KEY) if isinstance(content, Mapping) else None
    if not isinstance(entries, list):
        return ()
    return tuple(
        multi_bit_weights(entry, f"{_MULTI_BIT_KEY}[{number}]")
        for number, entry in enumerate(entries)
    )


def _load_safely(path: Path) -> object:
    try:
        with path.open("rb") as file:
            head = file.read(2)
    except OSError as error:
        raise CheckpointError(
            "The checkpoint cannot be opened.", where=str(path), got=str(error)
        ) from error
    is_archive = head == b"PK"
    # Mapped, not read: the optimizer's state, often twice the weights, never becomes memory.
    mapped = is_archive and _check_archive(path) and _is_unicode(path)
    try:
        with torch.serialization.safe_globals([*PICKLED_BASES, *PICKLED_NUMBERS]):
            if mapped:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise _explained(path, is_archive, error) from error
    except (*_NO_PICKLE, MemoryError) as error:
        raise _explained(path, is_archive, error) from error


def _is_unicode(path: Path) -> bool:
    """Tell whether PyTorch's own file functions take a path: names may be any bytes."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_archive(path: Path) -> bool:
    """Compare a zip archive with its checksums, which PyTorch ignores; tell whether it is plain.

    Raises:
        CheckpointError: It is truncated or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.CRC:  # torch.save can be told to write none
                    with archive.open(entry) as file:
                        while file.read(_READ_BYTES):
                            pass
            return all(e.compress_type == zipfile.ZIP_STORED for e in archive.infolist())
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            "The checkpoint is a truncated or damaged zip archive.",
            where=str(path),
            expected="a complete archive that fits its checksums",
            got=f"{path.stat().st_size} bytes; {error}",
            fix="copy or download the file again",
        ) from error


def _explained(path: Path, is_archive: bool, error: BaseException) -> CheckpointError:
    wanted = _foreign_globals(path, is_archive)
    if wanted:
        return UnsafeCheckpointError(
            "The checkpoint wants to import code when it is loaded; nothing of it was run.",
            where=str(path),
            expected="tensors, numbers and strings only",
            got=", ".join(wanted),
            fix=_re_saving(path),
        )
    with path.open("rb") as file:
        head = file.read(_SHOWN_BYTES)
    # PyTorch wraps its reason in advice to trust the file.
    advice, _, reason = str(error).rpartition("WeightsUnpickler error: ")
    if not advice and "weights_only" in reason:
        reason = ""
    reason = " ".join([f"{type(error).__name__}:", *reason.strip().splitlines()[:1]])
    opcode = _UNSUPPORTED_OPCODE.search(reason)
    if opcode is not None and (is_archive or _LEGACY_MAGIC in head):
        code = int(opcode[1])
        named = {ord(known.code): known.name for known in pickletools.opcodes}.get(code, hex(code))
        return CheckpointError(
            "The checkpoint's pickle has an opcode that safe loading does not know.",
            where=str(path),
            expected="a pickle that a current PyTorch wrote",
            got=f"opcode {named}",
            fix=_re_saving(path),
        )
    return CheckpointError(
        "The file is not a readable PyTorch checkpoint.",
        where=str(path),
        expected="a file written by torch.save, complete",
        got=f"{path.stat().st_size} bytes that begin with {head!r} ({reason})",
        fix="check that the file is a checkpoint and was copied whole",
    )


def _re_saving(path: Path) -> str:
    """Return how to write a checkpoint anew with nothing but its tensors, in three lines."""
    return (
        "where you trust the file, re-save its tensors in Python, with its classes at hand:\n"
        "import torch\n"
        f"old = torch.load({str(path)!r}, map_location='cpu', weights_only=False, "
        "encoding='latin1')\n"
        "torch.save({'state_dict': old.state_dict() if hasattr(old, 'state_dict') else "
        f"old.get('state_dict', old)}}, {'resaved_' + path.name!r})"
    )


def _foreign_globals(path: Path, is_archive: bool) -> list[str]:
    """List the globals named in a checkpoint's pickles beyond those of tensors, without running."""
    try:
        if is_archive:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith("data.pkl")]
                streams = [archive.read(name) for name in names]
        else:
            streams = [path.read_bytes()]
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError):
        return []
    found: dict[str, None] = {}
    for stream in streams:
        for name in _globals_of_pickles(stream):
            if not _TENSOR_GLOBALS.fullmatch(name):
                found[name] = None
    return list(found)


def _globals_of_pickles(stream: bytes) -> list[str]:
    """Return `module.name` of every global in the pickles that stand one after the other."""
    names: list[str] = []
    buffer = io.BytesIO(stream)
    try:
        while buffer.tell() < len(stream):
            strings = [""]
            memo: dict[object, str] = {}
            for opcode, argument, _ in pickletools.genops(buffer):
                if opcode.name in ("GLOBAL", "INST"):
                    names.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    names.append(".".join(strings[-2:]))
                elif opcode.name == "MEMOIZE":
                    memo[len(memo)] = strings[-1]
                elif opcode.name.endswith("PUT"):
                    memo[argument] = strings[-1]
                elif opcode.name.endswith("GET"):
                    strings.append(memo.get(argument, ""))
                elif isinstance(argument, str):
                    strings.append(argument)
    except (ValueError, EOFError, IndexError, UnicodeDecodeError):
        pass  # The end of the pickles: tensor data, or damage that the caller reports.
    return names


def _state_dict(content: object, path: Path, weights: str | None) -> dict[str, torch.Tensor]:
    if not isinstance(content, Mapping):
        raise CheckpointError(
            "The checkpoint holds no state dict.",
            where=str(path),
            expected="a dict",
            got=type(content).__name__,
        )
    found = chosen_weights(content, weights, path)
    tensors = {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}
    if not tensors or len(tensors) != len(found) or not all(isinstance(key, str) for key in found):
        others = [
            f"{_shown(key)} ({type(value).__name__})"
            for key, value in found.items()
            if not (isinstance(key, str) and isinstance(value, torch.Tensor))
        ]
        sets = weight_sets(content)
        keys = ", ".join(others[:_SHOWN_KEYS]) or "nothing"
        raise CheckpointError(
            "The checkpoint holds no state dict.",
            where=str(path),
            expected="tensors by name, at the top or under " + ", ".join(STATE_DICT_KEYS),
            got=keys,
            fix=f"name the weights: --weights, one of {listed(sets)}" if sets else None,
        )
    tensors.pop(_AVERAGES_COUNTER, None)
    if all(key.startswith(_DATA_PARALLEL_PREFIX) for key in tensors):
        tensors = {key[len(_DATA_PARALLEL_PREFIX) :]: value for key, value in tensors.items()}
    for key, tensor in tensors.items():
        _check_type(key, tensor)
    return {key: tensor.detach() for key, tensor in tensors.items()}


def _shown(key: object) -> str:
    return key if isinstance(key, str) else reprlib.repr(key)


def _check_type(key: str, tensor: torch.Tensor) -> None:
    is_counter = key.endswith(_COUNTER_SUFFIX) and tensor.dtype == torch.int64
    is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not (is_plain and (tensor.dtype == torch.float32 or is_counter)):
        raise CheckpointError(
            "A tensor of the checkpoint has a type that the family does not use.",
            where=key,
            expected="dense float32",
            got=f"{tensor.dtype}, {tensor.layout}, {tensor.device}",
            fix="convert a checkpoint that was saved in the precision of its training",
        )
    if tensor.numel() == 0:
        raise CheckpointError(
            "A tensor of the checkpoint is empty.", where=key, got=f"shape {list(tensor.shape)}"
        )


def require_finite(state: Mapping[str, torch.Tensor]) -> None:
    """Raise `WeightError` unless every value of every tensor is finite."""
    for key, tensor in state.items():
        if torch.isfinite(tensor.sum()):
            continue  # one pass over most tensors; finite ones whose sum is not are looked into
        finite = torch.isfinite(tensor)
        if not finite.all():
            raise WeightError(
                "A tensor holds values that are not finite.",
                where=key,
                expected="finite float32 values",
                got=f"{int((~finite).sum())} NaN or infinite of {tensor.numel()}",
                fix="convert a checkpoint of an epoch in which training had not diverged",
            )
