"""What a checkpoint's file holds before anything of it is a tensor; what reading it may use."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from apot_export.budgets import BYTES, PICKLE_STEPS, Budget, Kind
from apot_export.errors import CheckpointError

ITEM_BYTES = {"bool": 1, "bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
ITEM_BYTES |= {f"{sign}int{8 << n}": 1 << n for sign in ("", "u") for n in range(4)}
ITEM_BYTES |= {"complex64": 8, "complex128": 16}
"""Bytes of a number by PyTorch's name of its type."""
_MOST_AXES = 64


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that a pickle names, which is not imported."""

    name: str


@dataclass(eq=False, repr=False, slots=True)
class StandIn:
    """An object of a class that is not imported: what the pickle gave it, as data."""

    name: str
    """Class or function that would have made it."""
    arguments: tuple[Any, ...] = ()
    state: Any = None
    held: dict[Any, Any] = field(default_factory=dict)
    """Attributes, and items of what was a kind of dict."""


@dataclass(eq=False, slots=True)
class Storage:
    """Where bytes of numbers are."""

    dtype: str
    size: int
    """Bytes."""
    start: int | None
    """First byte; None while it is not known."""
    is_kept: bool = False
    """Whether they are among the bytes that the reader wrote, rather than in the file."""


@dataclass(eq=False, slots=True)
class Tensor:
    """A tensor whose numbers were not read; offset and strides in numbers of its type."""

    dtype: str
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def require_axes(numbers: Any) -> None:
    """Raise `ValueError` unless numbers can be extents or strides of a tensor's axes."""
    if len(numbers) > _MOST_AXES:
        raise ValueError(f"{len(numbers)} axes")
    if not all(isinstance(n, int) and 0 <= n < 1 << 63 for n in numbers):
        raise ValueError("a shape, stride or offset that is no number of elements")


def allow_memory(size: int) -> str:
    """Return what to do about a file that asks for much."""
    return (
        "do not use a file that you do not trust; if you do trust it, allow more, for example "
        f"--max-memory {size} (in Python: apot_export.max_memory)"
    )


@dataclass(eq=False, kw_only=True)
class Reading:
    """One file that is being read, and what was found and used up on the way."""

    where: str
    budget: Budget
    kept: BinaryIO
    """Gets the bytes that are in the file in another form: inflated, in a pickle, big-endian."""
    foreign: dict[str, None] = field(default_factory=dict)
    """Names of the globals that are no data."""
    steps: int = 0
    spent: int = 0

    def __post_init__(self) -> None:
        self.most = {kind: self.budget.most(kind) for kind in (BYTES, PICKLE_STEPS)}

    def step(self) -> None:
        """Count an opcode."""
        self.steps += 1
        self._require(PICKLE_STEPS, self.steps)

    def spend(self, size: int) -> None:
        """Count bytes that the file asks for beside those that it has."""
        self.spent += size
        self._require(BYTES, self.spent)

    def _require(self, kind: Kind, used: int) -> None:
        most = self.most[kind]
        if used > most:
            raise CheckpointError(
                "The checkpoint asks for more than a file of its size should need.",
                where=self.where,
                expected=f"at most {most} {kind.name}",
                got="more",
                fix=allow_memory(max(4 * most * kind.memory, self.most[BYTES])),
            )

    def keep(self, data: bytes, dtype: str = "uint8") -> Storage:
        """Write bytes down for whoever makes tensors."""
        self.spend(len(data))
        start = self.kept.seek(0, 2)
        self.kept.write(data)
        return Storage(dtype, len(data), start, is_kept=True)

    def tensor(self, storage: Storage, dtype: str, offset: int, shape: Any, strides: Any) -> Tensor:
        """Return a tensor.

        Raises:
            ValueError: It is not inside its storage.
        """
        for some in (shape, strides, (offset,)):
            require_axes(some)
        if len(shape) != len(strides):
            raise ValueError(f"{len(shape)} axes, {len(strides)} strides")
        count, size = math.prod(shape), ITEM_BYTES[dtype]
        if math.prod(n or 1 for n in shape) >= 1 << 63:
            raise ValueError("more elements than can be counted")
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if count and (last + 1) * size > storage.size:
            raise ValueError(f"number {last} of {dtype} in {storage.size} bytes")
        self.spend(count * size)  # strides of 0, and many tensors of the same numbers
        return Tensor(dtype, storage, offset, tuple(shape), tuple(strides))
