"""Pickles read as data: classes and functions stay names; nothing is imported, called or hashed.

Every opcode that would import, call or set an attribute is replaced. What remains of a pickle is
text, numbers, lists, dicts, the places of tensors' numbers in the file, and stand-ins for objects
of other classes. Needs the standard library alone.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
from collections.abc import Callable
from typing import Any

from apot_export.original._data import (
    ITEM_BYTES,
    Global,
    Reading,
    StandIn,
    Storage,
    Tensor,
    require_axes,
)

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
    "Float": "float32",
    "Double": "float64",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
    "Untyped": "uint8",
}
_ARRAY_TYPES = {
    **{f"f{size}": (f"float{8 * size}", code) for size, code in ((2, "e"), (4, "f"), (8, "d"))},
    **{f"i{1 << n}": (f"int{8 << n}", code) for n, code in enumerate("bhiq")},
    **{f"u{1 << n}": (f"uint{8 << n}", code) for n, code in enumerate("BHIQ")},
    "b1": ("bool", "?"),
}
"""PyTorch's names of numpy's types of numbers, and their codes in `struct`."""
_ENTRY_BYTES = 64
"""Memory of an entry that a list or dict gets by a copy."""
_PLAIN_KEYS = (str, int, float, type(None))
_KEY_BITS = 64
"""Of an integer as a key: of larger ones as many as one likes have the same hash."""
_LONGEST_NAME = 1024
"""Characters of a global or a storage: a pickle can name the same one again and again."""

Nested = Callable[[Reading, Any], Any]
"""Reads a file of PyTorch's that stands as bytes in a pickle."""
Storages = Callable[[str, str, int], Storage]
"""Gives a storage by key, type and number of elements."""


class _Unpickler(pickle._Unpickler):  # noqa: SLF001 - the C one has no opcodes to replace
    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]

    def __init__(
        self, reading: Reading, file: Any, storages: Storages | None, nested: Nested
    ) -> None:
        self._reading, self._file, self._storages = reading, file, storages
        self._makers = {**_MAKERS, "torch.storage._load_from_bytes": nested}
        super().__init__(_Counted(reading, file), encoding="latin1")

    def find_class(self, module: str, name: str) -> Global:
        if len(module) + len(name) > _LONGEST_NAME:
            raise pickle.UnpicklingError(f"a global of {len(module) + len(name)} characters")
        found = Global(f"{module}.{name}")
        if not _INERT.fullmatch(found.name):
            self._reading.foreign[found.name] = None
        return found

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and pid[0] == "module":  # with the source of its class
            return pid[1]
        if self._storages is None or not isinstance(pid, tuple) or pid[0] != "storage":
            raise pickle.UnpicklingError("a persistent id that is no storage")
        _, kind, key, _, count, *view = pid
        match = _STORAGE.fullmatch(kind.name)
        if match is None or match[1] not in _STORAGE_TYPES or any(v is not None for v in view):
            raise pickle.UnpicklingError(f"a storage of an unknown type: {kind.name}")
        key = str(key) if isinstance(key, int) else key
        if not isinstance(key, str) or not isinstance(count, int) or count < 0:
            raise pickle.UnpicklingError("a storage without a key or a number of elements")
        if len(key) > _LONGEST_NAME:
            raise pickle.UnpicklingError(f"a storage whose key has {len(key)} characters")
        return self._storages(key, _STORAGE_TYPES[match[1]], count)

    def made(self, maker: Any, arguments: Any) -> Any:
        if not isinstance(maker, Global) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError(f"a call of {type(maker).__name__}")
        if maker.name == "torch._tensor._rebuild_from_type_v2":
            return self.made(arguments[0], arguments[2])
        known = self._makers.get(maker.name.replace("__builtin__.", "builtins."))
        return known(self._reading, *arguments) if known else StandIn(maker.name, arguments)

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
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        self.append(self.made(self.find_class(module, name), tuple(self.pop_mark())))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, StandIn):
            target.state = state
            for part in state if isinstance(state, tuple) else (state,):
                if isinstance(part, dict):
                    self._reading.spend(len(part) * _ENTRY_BYTES)
                    target.held.update(part)

    def refuse(self) -> None:
        raise pickle.UnpicklingError("an extension code")

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, StandIn):  # which may have been a kind of list
            raise pickle.UnpicklingError(f"items appended to {type(target).__name__}")

    def fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        held = target.held if isinstance(target, StandIn) else target
        if not isinstance(held, dict):
            raise pickle.UnpicklingError(f"items of {type(target).__name__}")
        _fill(held, zip(items[::2], items[1::2], strict=True))

    def new_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self.fill(items)

    def read_sized(self) -> None:
        """Read bytes without making room for them first."""
        data = self.read(int.from_bytes(self.read(8), "little"))
        self.append(data)


class _Counted:
    """A file whose every read is a step; `_Unpickler` reads an opcode at a time."""

    def __init__(self, reading: Reading, file: Any) -> None:
        self._reading, self._file = reading, file

    def read(self, size: int) -> bytes:
        self._reading.step()
        data: bytes = self._file.read(size)
        if len(data) != size:
            raise EOFError("Ran out of input")
        return data

    def readline(self) -> bytes:
        line: bytes = self._file.readline()
        return line


_REPLACED: dict[bytes, Callable[[Any], Any]] = {
    **dict.fromkeys((pickle.REDUCE, pickle.NEWOBJ), _Unpickler.call),
    pickle.NEWOBJ_EX: _Unpickler.call_with_keywords,
    pickle.OBJ: _Unpickler.call_marked,
    pickle.INST: _Unpickler.call_named,
    pickle.BUILD: _Unpickler.build,
    **dict.fromkeys((pickle.EXT1, pickle.EXT2, pickle.EXT4), _Unpickler.refuse),
    pickle.DICT: _Unpickler.new_dict,
    pickle.SETITEM: lambda reader: reader.fill([reader.stack.pop(-2), reader.stack.pop()]),
    pickle.SETITEMS: lambda reader: reader.fill(reader.pop_mark()),
    pickle.APPEND: lambda reader: reader.extend([reader.stack.pop()]),
    # Lists in place of sets: nothing that a pickle holds is hashed but text and numbers.
    pickle.EMPTY_SET: lambda reader: reader.append([]),
    **dict.fromkeys(
        (pickle.APPENDS, pickle.ADDITEMS), lambda reader: reader.extend(reader.pop_mark())
    ),
    pickle.FROZENSET: lambda reader: reader.append(reader.pop_mark()),
    pickle.BYTEARRAY8: _Unpickler.read_sized,
    pickle.FRAME: lambda reader: reader.read(8),
}
_Unpickler.dispatch = {
    **pickle._Unpickler.dispatch,  # noqa: SLF001 - as above
    **{opcode[0]: method for opcode, method in _REPLACED.items()},
}


def unpickle(reading: Reading, file: Any, storages: Storages | None, nested: Nested) -> Any:
    """Read one pickle without running anything.

    Args:
        reading: The file that it is in.
        file: With `read` and `readline`, at the pickle's first byte.
        storages: Gives the storages of tensors; None where there can be none.
        nested: Reads a file of PyTorch's that stands as bytes in the pickle.

    Raises CheckpointError beyond the budget, UnpicklingError and whatever else damage leads to.
    """
    return _Unpickler(reading, file, storages, nested).load()


# --- what is made of known globals ----------------------------------------------------------------


def _fill(held: dict[Any, Any], pairs: Any) -> dict[Any, Any]:
    """Add pairs to a dict, whose keys never nest: a hash has no limit on depth."""
    for key, value in pairs:
        is_plain = isinstance(key, _PLAIN_KEYS) and not (
            isinstance(key, int) and key.bit_length() > _KEY_BITS
        )
        held[key if is_plain else f"{type(key).__name__} {len(held)}"] = value
    return held


def _dict(reading: Reading, pairs: Any = ()) -> dict[Any, Any]:
    reading.spend(len(pairs) * _ENTRY_BYTES)
    return _fill({}, pairs.items() if isinstance(pairs, dict) else pairs)


def _bytes(reading: Reading, text: Any = b"", *_coding: object) -> bytes:
    reading.spend(len(text))
    return text.encode("latin1") if isinstance(text, str) else bytes(memoryview(text))


def _list(reading: Reading, items: Any = (), *_length: object) -> list[Any]:
    reading.spend(len(items) * _ENTRY_BYTES)
    return [*items] if isinstance(items, (list, tuple)) else []


def _first(_reading: Reading, value: Any, *_others: object) -> Any:
    return value


def _tensor(
    reading: Reading, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> Tensor:
    return reading.tensor(storage, storage.dtype, offset, shape, strides)


def _typed_tensor(reading: Reading, *arguments: Any) -> Tensor:
    storage, offset, shape, strides, _, _, dtype, *_ = arguments
    return reading.tensor(storage, dtype.name.removeprefix("torch."), offset, shape, strides)


def _array_type(kind: object) -> tuple[str, str] | None:
    """Return PyTorch's name of numpy's type of numbers, and its code in `struct`."""
    if not (isinstance(kind, StandIn) and kind.name == "numpy.dtype" and kind.arguments):
        return None
    code = kind.arguments[0]
    known = _ARRAY_TYPES.get(code) if isinstance(code, str) else None
    is_big = isinstance(kind.state, tuple) and kind.state[1] == ">"
    return known and (known[0], (">" if is_big else "<") + known[1])


def _scalar(_reading: Reading, kind: object = None, raw: Any = b"", *_: object) -> Any:
    """Return the number that a pickled numpy scalar holds; None for anything but a number."""
    known = _array_type(kind)
    if known is None or not isinstance(raw, (bytes, str)) or len(raw) != ITEM_BYTES[known[0]]:
        return None
    (number,) = struct.unpack(known[1], raw.encode("latin1") if isinstance(raw, str) else raw)
    return number


def array_of(reading: Reading, value: StandIn) -> Tensor | None:
    """Return an array of numpy's as a tensor; None for anything else, or a damaged one."""
    try:
        if value.name.endswith("._frombuffer"):
            raw, kind, shape, order = value.arguments
        else:
            _, shape, kind, is_fortran, raw = value.state
            order = "F" if is_fortran else "C"
        known = _array_type(kind)
        if known is None or not isinstance(raw, (bytes, bytearray, str)):
            return None
        require_axes(shape)
        data, (dtype, code) = _bytes(reading, raw), known
        size = ITEM_BYTES[dtype]
        if len(data) != size * math.prod(shape):
            return None
        if code[0] == ">":
            swapped = bytearray(data)
            for place in range(size):
                swapped[place::size] = data[size - 1 - place :: size]
            data = bytes(swapped)
        axes = shape[::-1] if order == "C" else shape
        strides = [math.prod(axes[:axis]) for axis in range(len(axes))]
        return reading.tensor(
            reading.keep(data, dtype), dtype, 0, shape, strides[::-1] if order == "C" else strides
        )
    except (ValueError, TypeError, LookupError, ArithmeticError):
        return None


_MAKERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("collections.OrderedDict", "collections.Counter", "builtins.dict"), _dict),
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
