"""The integer program of FORMAT.md, section 8: an integer network as instructions over bytes."""

from __future__ import annotations

import dataclasses
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from apot_export.errors import IntegerError
from apot_export.integer import network as integer_op
from apot_export.integer._program_parts import (
    IMAGE,
    SIZES,
    Address,
    Finishing,
    WeightTensors,
    finishing_bytes,
    kind_of,
    sum_kind,
    taps_scratch,
    thresholds_scratch,
    weight_bytes,
    words,
)
from apot_export.integer.network import LARGEST_PIXEL, IntegerNetwork, IntegerNode, Interval
from apot_export.network import CodedNetwork, PlaneLayer, Shape
from apot_export.network import operations as op
from apot_export.network.memory_plan import Use, plan, rounded_up

PROGRAM_VERSION = 1
MAGIC = b"APIN"
_CONVOLVE, _MAP, _SUM, _MAXIMUM, _TOTAL, _REPEAT = range(1, 7)
_FUSED = 3
"""Most post-operations of a convolution, beside storing its sums as they are."""
_KEPT = integer_op.Clamp(low=None, high=None)

Addresses = Mapping[str, Address]


@dataclass(frozen=True, kw_only=True)
class _Instruction:
    use: Use
    encode: Callable[[Addresses], bytes]
    scratch: int = 0


def program_bytes(
    network: IntegerNetwork,
    coded: CodedNetwork,
    tensors: Mapping[str, NDArray[Any]],
    positions: Mapping[str, int],
) -> bytes:
    """Serialise an integer network: the same network and file give the same bytes.

    Its weights are the codes of the coded network that `lower` was given, which lie in the packed
    file's tensors at the positions in its data.

    Raises:
        IntegerError: A size or number does not fit the format.
    """
    stored = WeightTensors(tensors=tensors, positions=positions)
    return _Writer(network=_with_checked_pixels(network), coded=coded, stored=stored).run()


def _with_checked_pixels(network: IntegerNetwork) -> IntegerNetwork:
    """Let pixels be clamped to their range first: a caller's numbers may be any."""
    if network.pixels is None:
        return network
    first, *others = network.nodes
    clamped = IntegerNode(
        name=f"{network.input}.pixels",
        inputs=first.inputs,
        operation=integer_op.Clamp(low=0, high=LARGEST_PIXEL),
        shape=first.shape,
        interval=Interval(low=0, high=LARGEST_PIXEL),
    )
    requantized = dataclasses.replace(first, inputs=(clamped.name,))
    return dataclasses.replace(network, nodes=(clamped, requantized, *others), input_bits=0)


@dataclass(kw_only=True)
class _Writer:
    network: IntegerNetwork
    coded: CodedNetwork
    stored: WeightTensors
    shapes: dict[str, Shape] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    """Value that has the same numbers in the same order, by the name of a flattened one."""
    instructions: list[_Instruction] = field(default_factory=list)
    fused: set[str] = field(default_factory=set)

    def run(self) -> bytes:
        network = self.network
        self.shapes = {node.name: node.shape for node in network.nodes}
        self.shapes[network.input] = network.input_shape
        for node in network.nodes:
            if node.name not in self.fused:
                self._add(node)
        kinds = {node.name: kind_of(node.interval) for node in network.nodes}
        sizes = {name: math.prod(self.shapes[name]) * SIZES[kind] for name, kind in kinds.items()}
        output = self._root(network.output)
        offsets, values = plan([one.use for one in self.instructions], sizes, [output])
        addresses = {name: Address(kinds[name], offset) for name, offset in offsets.items()}
        addresses[network.input] = Address(IMAGE, 0)
        encoded = [instruction.encode(addresses) for instruction in self.instructions]
        body = (
            words(*network.input_shape, network.input_bits, network.fraction_bits)
            + struct.pack("<d", float(network.logit_scale))
            + words(values, max(instruction.scratch for instruction in self.instructions))
            + words(math.prod(self.shapes[network.output]), *addresses[output], len(encoded))
            + b"".join(encoded)
        )
        sealed = body + words(PROGRAM_VERSION, len(body) + 16)
        return sealed + words(zlib.crc32(sealed)) + MAGIC

    def _root(self, name: str) -> str:
        while name in self.aliases:
            name = self.aliases[name]
        return name

    def _add(self, node: IntegerNode) -> None:
        operation = node.operation
        match operation:
            case integer_op.ToFixed():
                clamp = integer_op.Clamp(low=operation.low, high=operation.high)
                self._map(node, node.inputs[0], clamp)
            case integer_op.Requantize() | integer_op.Quantize() | integer_op.Clamp():
                self._map(node, node.inputs[0], operation)
            case op.Convolution() | op.Linear():
                self._add_weighted(node, operation)
            case op.Add():
                self._instruct(_SUM, node, before=(math.prod(node.shape),), in_place=True)
            case op.MaxPool() | integer_op.WindowSum():
                padding = operation.padding if isinstance(operation, op.MaxPool) else (0, 0)
                geometry = (*operation.kernel, *operation.stride, *padding)
                opcode = _MAXIMUM if isinstance(operation, op.MaxPool) else _TOTAL
                extents = (*self.shapes[node.inputs[0]], *node.shape[1:])
                self._instruct(opcode, node, after=(*extents, *geometry))
            case op.Upsample():
                extents = self.shapes[node.inputs[0]]
                self._instruct(_REPEAT, node, after=(*extents, *operation.scale))
            case op.Flatten():
                self.aliases[node.name] = node.inputs[0]
            case op.Concat():
                before = 0
                for name in node.inputs:
                    self._map(node, name, _KEPT, before=before, in_place=False)
                    before += math.prod(self.shapes[name])

    def _put(
        self,
        reads: tuple[str, ...],
        writes: tuple[str, ...],
        encode: Callable[[Addresses], bytes],
        *,
        in_place: bool = False,
        scratch: int = 0,
    ) -> None:
        use = Use(reads=reads, writes=writes, over=reads if in_place else ())
        self.instructions.append(_Instruction(use=use, encode=encode, scratch=scratch))

    # --- instructions -----------------------------------------------------------------------------

    def _instruct(
        self,
        opcode: int,
        node: IntegerNode,
        *,
        before: tuple[int, ...] = (),
        after: tuple[int, ...] = (),
        in_place: bool = False,
    ) -> None:
        """Add an operation code, the addresses of inputs and result, and numbers around these."""
        sources = tuple(self._root(name) for name in node.inputs)

        def encode(addresses: Addresses) -> bytes:
            named = [part for name in (*sources, node.name) for part in addresses[name]]
            return words(opcode, *before, *named, *after)

        self._put(sources, (node.name,), encode, in_place=in_place)

    def _map(
        self,
        node: IntegerNode,
        name: str,
        operation: Finishing,
        *,
        before: int = 0,
        in_place: bool = True,
    ) -> None:
        """Add what is done to every number of an input; `before` numbers precede the results."""
        source = self._root(name)
        channels, *extents = self.shapes[name]

        def encode(addresses: Addresses) -> bytes:
            kind, offset = addresses[node.name]
            target = Address(kind, offset + before * SIZES[kind])
            head = words(_MAP, *addresses[source], channels, math.prod(extents))
            return head + finishing_bytes(operation, target)

        scratch = thresholds_scratch(operation)
        self._put((source,), (node.name,), encode, in_place=in_place, scratch=scratch)

    def _add_weighted(self, node: IntegerNode, operation: op.Convolution | op.Linear) -> None:
        """Add sums of products, with the requantizers and quantizers that read them."""
        source = self._root(node.inputs[0])
        readers = [reader for reader in self.network.nodes if node.name in reader.inputs]
        fused = [
            (reader.name, reader.operation)
            for reader in readers
            if isinstance(reader.operation, (integer_op.Requantize, integer_op.Quantize))
        ][:_FUSED]
        self.fused.update(name for name, _ in fused)
        posts: list[tuple[str, Finishing]] = [*fused]
        if len(posts) < len(readers) or node.name == self.network.output:
            posts.append((node.name, _KEPT))
        layer, coded = self.network.layers[operation.layer], self.coded.layers[operation.layer]
        kind = sum_kind(layer, coded)
        shape = layer.weights.shape
        geometry = _geometry(node, operation, self.shapes[node.inputs[0]], shape)
        planes = isinstance(coded, PlaneLayer)
        sums = rounded_up(math.prod(node.shape[1:]) * SIZES[kind])
        scratch = max(thresholds_scratch(how) for _, how in posts)
        scratch += sums * (2 if planes else 1) + taps_scratch((*shape[2:], 1, 1)[:2])
        self._put(
            (source,),
            tuple(name for name, _ in posts),
            lambda addresses: (
                words(_CONVOLVE, *addresses[source], *geometry, kind, int(planes))
                + weight_bytes(layer, coded, self.stored)
                + words(len(posts))
                + b"".join(finishing_bytes(how, addresses[name]) for name, how in posts)
            ),
            scratch=scratch,
        )


def _geometry(
    node: IntegerNode, operation: op.Convolution | op.Linear, source: Shape, weights: Shape
) -> tuple[int, ...]:
    """Return channels, extents, kernel, stride, padding and dilation of a weighted sum."""
    out, inputs = weights[:2]
    if isinstance(operation, op.Linear):
        return (1, inputs, out, *[1] * 8, 0, 0, 1, 1)
    if out % operation.groups or source[0] != inputs * operation.groups:
        raise IntegerError("A convolution's groups do not fit its weights.", where=node.name)
    return (
        operation.groups,
        inputs,
        out // operation.groups,
        *source[1:],
        *node.shape[1:],
        *weights[2:],
        *operation.stride,
        *operation.padding,
        *operation.dilation,
    )
