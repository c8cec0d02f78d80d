"""Unpickling that runs nothing: classes and functions stay names, their objects plain records.

Every opcode that would import, call or set an attribute is replaced. What remains of a pickle is
text, numbers, lists, dicts, tensors, and stand-ins for objects of other classes.
"""

from __future__ import annotations

import pickle
import re
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

_INERT = re.compile(
    r"(__builtin__|builtins)\.(bytearray|bytes|complex|dict|float|int|list|object|set|frozenset"
    r"|slice|range|str|tuple)"
    r"|_codecs\.encode|(copyreg|copy_reg)\.(_reconstructor|__newobj__|__newobj_ex__)"
    r"|argparse\.Namespace|types\.SimpleNamespace"
    r"|collections\.(Counter|OrderedDict|defaultdict|deque)"
    r"|datetime\.\w+|zoneinfo\.ZoneInfo(\._unpickle)?|decimal\.Decimal|fractions\.Fraction"
    r"|pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path|uuid\.(UUID|SafeUUID)"
    r"|enum\.\w+|http\.HTTP(Status|Method)|inspect\._ParameterKind|plistlib\.PlistFormat"
    r"|pstats\.SortKey|re\.RegexFlag|signal\.(Signals|Handlers|Sigmasks)"
    r"|socket\.(AddressFamily|AddressInfo|MsgFlag|SocketKind)"
    r"|numpy\.(dtype|ndarray|bool_?|(u?int|float|complex)\d+)|numpy\.dtypes\.\w+"
    r"|numpy\._?core\.(multiarray\.(scalar|_reconstruct)|numeric\._frombuffer)"
    r"|numpy\.random\.[\w.]+"
    r"|torch\.(Size|Tensor|Generator|bool|device|dtype|layout|memory_format|strided"
    r"|\w+_format|(b?float|complex|q?u?int)\d+\w*)"
    r"|torch\.((cuda|storage)\.)?\w+Storage|torch\._utils\._rebuild_\w+"
    r"|torch\.storage\._load_from_bytes|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
    r"|torch\.torch_version\.TorchVersion|torch\.optim\.[\w.]+|torch\.(cuda\.)?amp\.[\w.]+"
    r"|(pytorch_lightning|lightning(\.pytorch|_fabric|\.fabric)?)\.(callbacks|utilities)\.[\w.]+"
    r"|easydict\.EasyDict|yacs\.config\.CfgNode|(omegaconf|ml_collections|munch|addict)\.[\w.]+"
    r"|binarynet\.(Conv|FC)Layer_bin"
)
"""Globals whose objects are data beside the tensors; any other one has a checkpoint refused."""
_STORAGE = re.compile(r"torch\.(?:cuda\.|storage\.)?(\w+)Storage")
_STORAGE_TYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "Untyped": torch.uint8,
}
_ARRAY_TYPE = re.compile(r"[iuf][1248]|b1")
"""Codes of numpy's types of numbers, as f8."""
_PLAIN_KEYS = (str, int, float, bytes, type(None))


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names, which is not imported."""

    name: str


@dataclass(eq=False, repr=False)
class StandIn:
    """An object of a class that is not imported: what the pickle gave it, as data."""

    name: str
    """Class or function that would have made it."""
    arguments: tuple[Any, ...] = ()
    state: Any = None
    held: dict[Any, Any] = field(default_factory=dict)
    """Attributes, and items of what was a kind of dict."""

    def build(self, state: Any) -> None:
        """Keep a state: attributes in a dict, or a dict and slots, or anything else."""
        self.state = state
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.held.update(part)

    def append(self, item: object) -> None:
        """Ignore an item of what was a kind of list."""


StorageReader = Callable[[str, torch.dtype, int], torch.Tensor]
"""Gives the numbers of a storage, a flat tensor, by key, type and number of elements."""


class _Unpickler(pickle._Unpickler):  # noqa: SLF001 - the C one has no opcodes to replace
    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    append: Callable[[Any], None]

    def __init__(
        self,
        file: Any,
        foreign: dict[str, None],
        storage: StorageReader | None,
        nested: Callable[[bytes], Any],
    ) -> None:
        super().__init__(file, encoding="latin1")
        self._foreign, self._storage = foreign, storage
        self._makers = {**_MAKERS, "torch.storage._load_from_bytes": nested}

    def find_class(self, module: str, name: str) -> Global:
        found = Global(f"{module}.{name}")
        if not _INERT.fullmatch(found.name):
            self._foreign[found.name] = None
        return found

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and pid[0] == "module":  # with the source of its class
            return pid[1]
        if self._storage is None or not isinstance(pid, tuple) or pid[0] != "storage":
            raise pickle.UnpicklingError("a persistent id that is no storage")
        _, kind, key, _, count, *view = pid
        match = _STORAGE.fullmatch(kind.name)
        if (
            match is None
            or match[1] not in _STORAGE_TYPES
            or any(part is not None for part in view)
        ):
            raise pickle.UnpicklingError(f"a storage of an unknown type: {kind.name}")
        return self._storage(str(key), _STORAGE_TYPES[match[1]], int(count))

    def made(self, maker: Any, arguments: Any) -> Any:
        if not isinstance(maker, Global) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError(f"a call of {type(maker).__name__}")
        if maker.name == "torch._tensor._rebuild_from_type_v2":
            return self.made(arguments[0], arguments[2])
        known = self._makers.get(maker.name.replace("__builtin__.", "builtins."))
        return known(*arguments) if known else StandIn(maker.name, arguments)

    def call(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.made(self.stack[-1], arguments)

    def call_with_keywords(self) -> None:
        self.stack.pop()
        self.call()

    def call_marked(self) -> None:
        maker, *arguments = self.pop_mark()
        self.append(self.made(maker, tuple(arguments)))

    def call_named(self) -> None:
        read: Callable[[], bytes] = self.readline  # type: ignore[attr-defined]
        module, name = read()[:-1].decode("ascii"), read()[:-1].decode("ascii")
        self.append(self.made(self.find_class(module, name), tuple(self.pop_mark())))

    def build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], StandIn):
            self.stack[-1].build(state)

    def refuse(self) -> None:
        raise pickle.UnpicklingError("an extension code")

    def fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        held = target.held if isinstance(target, StandIn) else target
        if not isinstance(held, dict):
            raise pickle.UnpicklingError(f"items of {type(target).__name__}")
        held.update(_mapping(zip(items[::2], items[1::2], strict=True)))

    def new_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self.fill(items)


_REPLACED: dict[bytes, Callable[[Any], None]] = {
    **dict.fromkeys((pickle.REDUCE, pickle.NEWOBJ), _Unpickler.call),
    pickle.NEWOBJ_EX: _Unpickler.call_with_keywords,
    pickle.OBJ: _Unpickler.call_marked,
    pickle.INST: _Unpickler.call_named,
    pickle.BUILD: _Unpickler.build,
    **dict.fromkeys((pickle.EXT1, pickle.EXT2, pickle.EXT4), _Unpickler.refuse),
    pickle.DICT: _Unpickler.new_dict,
    pickle.SETITEM: lambda reader: reader.fill([reader.stack.pop(-2), reader.stack.pop()]),
    pickle.SETITEMS: lambda reader: reader.fill(reader.pop_mark()),
    # Lists in place of sets: nothing that a pickle holds is hashed but text and numbers.
    pickle.EMPTY_SET: lambda reader: reader.append([]),
    pickle.ADDITEMS: pickle._Unpickler.dispatch[pickle.APPENDS[0]],  # noqa: SLF001 - as above
    pickle.FROZENSET: lambda reader: reader.append(reader.pop_mark()),
}
_Unpickler.dispatch = {
    **pickle._Unpickler.dispatch,  # noqa: SLF001 - as above
    **{opcode[0]: method for opcode, method in _REPLACED.items()},
}


def unpickle(
    file: Any,
    foreign: dict[str, None],
    storage: StorageReader | None,
    nested: Callable[[bytes], Any],
) -> Any:
    """Read one pickle without running anything.

    Args:
        file: With `read` and `readline`, at the pickle's first byte.
        foreign: Gets the name of every global that is no data.
        storage: Gives the numbers of tensors; None where there can be none.
        nested: Reads a file of PyTorch's that stands as bytes in the pickle.

    Raises pickle.UnpicklingError and whatever damage leads to.
    """
    return _Unpickler(file, foreign, storage, nested).load()


def numbers_of(value: object) -> torch.Tensor | None:
    """Return a tensor, or an array of numpy's as one; None for anything else, or damaged arrays."""
    if isinstance(value, torch.Tensor) or not isinstance(value, StandIn):
        return value if isinstance(value, torch.Tensor) else None
    try:
        if value.name.endswith("._frombuffer"):
            raw, kind, shape, order = value.arguments
        else:
            _, shape, kind, is_fortran, raw = value.state
            order = "F" if is_fortran else "C"
        dtype = _array_type(kind)
        if dtype is None:
            return None
        array = np.frombuffer(_bytes(raw), dtype).reshape(shape, order=order)
        return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C"))
    except (ValueError, TypeError, LookupError, ArithmeticError):
        return None


# --- what is made of known globals ----------------------------------------------------------------


def _mapping(pairs: Iterable[Any] = ()) -> dict[Any, Any]:
    """Return a dict, with keys that may nest without end as shortened text."""
    items = pairs.items() if isinstance(pairs, dict) else pairs
    return {k if isinstance(k, _PLAIN_KEYS) else reprlib.repr(k): v for k, v in items}


def _bytes(text: str | bytes = b"", *_coding: object) -> bytes:
    return text.encode("latin1") if isinstance(text, str) else bytes(memoryview(text))


def _list(items: Iterable[Any] = (), *_length: object) -> list[Any]:
    return [*items] if isinstance(items, (list, tuple)) else []


def _first(value: Any, *_others: object) -> Any:
    return value


def _tensor(
    storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> torch.Tensor:
    if any(step < 0 for step in stride):
        raise ValueError("a negative stride")
    return torch.as_strided(storage, size, stride, offset)


def _typed_tensor(*arguments: Any) -> torch.Tensor | StandIn:
    storage, offset, size, stride, _, _, dtype, *_ = arguments
    kind = getattr(torch, dtype.name.removeprefix("torch."), None)
    if not isinstance(kind, torch.dtype):
        raise pickle.UnpicklingError(f"a tensor of an unknown type: {dtype.name}")
    return _tensor(storage.view(kind), offset, size, stride)


def _array_type(kind: object) -> np.dtype[Any] | None:
    if not (isinstance(kind, StandIn) and kind.name == "numpy.dtype" and kind.arguments):
        return None
    code = str(kind.arguments[0])
    order = kind.state[1] if isinstance(kind.state, tuple) and kind.state[1] in {"<", ">"} else "="
    return np.dtype(order + code) if _ARRAY_TYPE.fullmatch(code) else None


def _scalar(kind: object = None, raw: object = b"", *_: object) -> Any:
    """Return the number that a pickled numpy scalar holds; None for anything but a number."""
    dtype = _array_type(kind)
    if dtype is None or not isinstance(raw, (bytes, str)) or len(raw) != dtype.itemsize:
        return None
    return np.frombuffer(_bytes(raw), dtype)[0].item()


_MAKERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("collections.OrderedDict", "collections.Counter", "builtins.dict"), _mapping),
    "collections.defaultdict": lambda *_factory: {},
    **dict.fromkeys(("_codecs.encode", "builtins.bytes", "builtins.bytearray"), _bytes),
    **{f"builtins.{name}": _list for name in ("list", "tuple", "set", "frozenset")},
    "collections.deque": _list,
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **dict.fromkeys(("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"), _tensor),
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch.nn.parameter.Parameter": _first,
    **{
        f"torch._utils._rebuild_{what}": _first
        for what in ("parameter", "parameter_with_state", "xla_tensor")
    },
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_device_tensor_from_numpy": _first,
}
"""What objects of some globals become; those of others are stand-ins."""
