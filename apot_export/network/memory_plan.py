"""Plan the memory of a program: one workspace, whose bytes are reused by later values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ALIGNMENT = 8


@dataclass(frozen=True, kw_only=True)
class Use:
    """The values that one instruction reads and writes."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    in_place: bool = False
    """Whether it may write its result over an input of the same size."""


@dataclass(kw_only=True)
class _Storage:
    """Bytes that hold a value, or several, each written over the one before it."""

    size: int
    birth: int
    death: int
    offset: int = -1


def rounded_up(size: int) -> int:
    """Return the next multiple of the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def plan(
    uses: Sequence[Use], sizes: Mapping[str, int], kept: Iterable[str]
) -> tuple[dict[str, int], int]:
    """Place values so that those that live at the same time do not overlap.

    Args:
        uses: The instructions in order.
        sizes: Bytes of every value.
        kept: Values that are still needed at the end.

    Returns:
        The offset of every value in bytes, and the bytes of all.
    """
    last = {name: index for index, use in enumerate(uses) for name in (*use.writes, *use.reads)}
    last.update(dict.fromkeys(kept, len(uses)))
    of_value: dict[str, _Storage] = {}
    storages: list[_Storage] = []
    for index, use in enumerate(uses):
        for name in use.writes:
            if name in of_value:
                continue
            # An input of the same size that is read for the last time may be written over.
            found = next(
                (
                    of_value[source]
                    for source in (use.reads if use.in_place else ())
                    if source in of_value and last[source] == index and sizes[source] == sizes[name]
                ),
                None,
            )
            if found is None:
                found = _Storage(size=rounded_up(sizes[name]), birth=index, death=index)
                storages.append(found)
            found.death = last[name]
            of_value[name] = found
    # The largest first: small ones fit into the gaps between them.
    placed: list[_Storage] = []
    for storage in sorted(storages, key=lambda one: -one.size):
        storage.offset = _lowest_gap(storage, placed)
        placed.append(storage)
    total = max((storage.offset + storage.size for storage in storages), default=0)
    return {name: storage.offset for name, storage in of_value.items()}, total


def _lowest_gap(storage: _Storage, placed: Iterable[_Storage]) -> int:
    offset = 0
    meets = [one for one in placed if one.birth <= storage.death and storage.birth <= one.death]
    for other in sorted(meets, key=lambda one: one.offset):
        if offset + storage.size <= other.offset:
            break
        offset = max(offset, other.offset + other.size)
    return offset
