"""Plan the memory of a program: one workspace, whose bytes are reused by later values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from apot_export.network import operations as op
from apot_export.network.graph import CodedNetwork, Node

ALIGNMENT = 8


class AnyNode(Protocol):
    """A node of a coded or an integer network."""

    @property
    def name(self) -> str:
        """Return the name of its value."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the values that it reads."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """The values that one instruction reads and writes."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    over: tuple[str, ...] = ()
    """Inputs that it may write a result of the same size over."""


@dataclass(kw_only=True)
class Storage:
    """Bytes that hold a value, or several, each written over the one before it."""

    values: list[str]
    size: int
    birth: int
    """Index of the instruction that writes the first value."""
    death: int
    """Index of the last instruction that needs one; that behind the last for what is kept."""
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
    found = storages(uses, sizes, kept)
    offsets = {name: storage.offset for storage in found for name in storage.values}
    return offsets, bytes_of(found)


def bytes_of(found: Iterable[Storage]) -> int:
    """Return the bytes of a workspace that holds all storages."""
    return max((storage.offset + storage.size for storage in found), default=0)


def storages(uses: Sequence[Use], sizes: Mapping[str, int], kept: Iterable[str]) -> list[Storage]:
    """Return what `plan` places, in the order of birth."""
    last = {name: index for index, use in enumerate(uses) for name in (*use.writes, *use.reads)}
    last.update(dict.fromkeys(kept, len(uses)))
    of_value: dict[str, Storage] = {}
    for index, use in enumerate(uses):
        for name in use.writes:
            if name in of_value:
                continue
            # An input that is read for the last time may be written over.
            found = next(
                (
                    of_value[source]
                    for source in use.over
                    if source in of_value and last[source] == index and sizes[source] == sizes[name]
                ),
                None,
            )
            if found is None:
                found = Storage(values=[], size=rounded_up(sizes[name]), birth=index, death=index)
            found.values.append(name)
            found.death = last[name]
            of_value[name] = found
    # The largest first: small ones fit into the gaps between them.
    made = [storage for name, storage in of_value.items() if storage.values[0] == name]
    placed: list[Storage] = []
    for storage in sorted(made, key=lambda one: -one.size):
        storage.offset = _lowest_gap(storage, placed)
        placed.append(storage)
    return made


def _lowest_gap(storage: Storage, placed: Iterable[Storage]) -> int:
    offset = 0
    meets = [one for one in placed if one.birth <= storage.death and storage.birth <= one.death]
    for other in sorted(meets, key=lambda one: one.offset):
        if offset + storage.size <= other.offset:
            break
        offset = max(offset, other.offset + other.size)
    return offset


def last_readers(nodes: Iterable[AnyNode]) -> dict[str, str]:
    """Return the node after which each value is not needed: its own where none reads it."""
    own = {node.name: node.name for node in nodes}
    return {**own, **{name: node.name for node in nodes for name in node.inputs}}


def most_numbers(network: CodedNetwork) -> tuple[str, int]:
    """Return the node that needs most numbers at once for an image, and how many.

    They are the values that it or later nodes read, its own, and what it makes of its input on the
    way: FORMAT.md, section 5.1.
    """
    last = last_readers(network.nodes)
    kept = {network.output, *network.further_outputs}
    sizes = {name: math.prod(shape) for name, shape in network.shapes.items()}
    held, most = sizes[network.input], (network.input, sizes[network.input])
    for node in network.nodes:
        held += sizes[node.name]
        most = max(most, (node.name, held + _between(network, node)), key=lambda one: one[1])
        done = {name for name in (node.name, *node.inputs) if last[name] == node.name}
        held -= sum(sizes[name] for name in done - kept)
    return most


_IN_PLACE = (op.QuantizeActivation, op.ScaleBias, op.Add, op.Relu, op.Clip, op.Flatten, op.Reshape)


def activations(network: CodedNetwork, bits: Mapping[str, int]) -> list[Storage]:
    """Return where the values of an image lie, each kept while a node needs it.

    Quantizers, scaling, additions and the like write over an input that nothing else needs. The
    first instruction gives the image, then there is one for each node.

    Args:
        network: The network.
        bits: Of one number of each value.
    """
    uses = [
        Use(
            reads=node.inputs,
            writes=(node.name,),
            over=node.inputs if isinstance(node.operation, _IN_PLACE) else (),
        )
        for node in network.nodes
    ]
    sizes = {
        name: (math.prod(shape) * bits[name] + 7) // 8 for name, shape in network.shapes.items()
    }
    given = Use(reads=(), writes=(network.input,))
    return storages([given, *uses], sizes, (network.output, *network.further_outputs))


def _between(network: CodedNetwork, node: Node) -> int:
    """Return how many numbers a node makes of an image on the way to its result."""
    given, made = network.shapes[node.inputs[0]], network.shapes[node.name]
    operation = node.operation
    if isinstance(operation, op.Resample):
        return math.prod((*made[:-1], given[-1]))
    if not isinstance(operation, (op.Convolution, op.MaxPool)):
        return 0
    (channels, height, width), (rows, columns) = given, operation.padding
    padded = channels * (height + 2 * rows) * (width + 2 * columns)
    if isinstance(operation, op.MaxPool):
        return padded
    return padded + channels * math.prod(network.layers[operation.layer].shape[2:]) * made[-1]
