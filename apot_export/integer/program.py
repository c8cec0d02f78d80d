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
from apot_export.integer._program_parts import (
    IMAGE,
    SIZES,
    Finishing,
    Place,
    WeightTensors,
    finishing_bytes,
    kind_of,
    sum_kind,
    taps_scratch,
    thresholds_scratch,
    weight_bytes,
    weight_kind,
    weight_scratch,
    words,
)
from apot_export.integer.network import (
    Clamp,
    Convolve,
    Flat,
    IntegerNetwork,
    IntegerNode,
    Interval,
    Join,
    Maximum,
    Multiply,
    Quantize,
    Repeat,
    Requantize,
    Sum,
    ToFixed,
    Total,
)
from apot_export.integer.pixels import LARGEST_PIXEL
from apot_export.network import CodedNetwork, Pair, Shape
from apot_export.network.memory_plan import Use, plan, rounded_up

PROGRAM_VERSION = 1
MAGIC = b"APIN"
_CONVOLVE, _MAP, _SUM, _MAXIMUM, _TOTAL, _REPEAT = range(1, 7)
_FUSED = 3
"""Most post-operations of a convolution, beside storing its sums as they are."""
_KEPT = Clamp(low=None, high=None)


@dataclass(frozen=True, kw_only=True)
class _Instruction:
    use: Use
    encode: Callable[[Mapping[str, Place]], bytes]
    scratch: int = 0


def program_bytes(
    network: IntegerNetwork,
    coded: CodedNetwork,
    tensors: Mapping[str, NDArray[Any]],
    positions: Mapping[str, int],
) -> bytes:
    """Serialise an integer network: the same network and file give the same bytes.

    Args:
        network: What `lower` made of the coded network.
        coded: The coded network, whose codes are the weights.
        tensors: The tensors of the packed file that hold them.
        positions: Where each tensor begins in the file's data.

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
        operation=Clamp(low=0, high=LARGEST_PIXEL),
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
    nodes: dict[str, IntegerNode] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    """Value that another one is the same numbers as."""
    instructions: list[_Instruction] = field(default_factory=list)
    fused: set[str] = field(default_factory=set)

    def run(self) -> bytes:
        network = self.network
        self.nodes = {node.name: node for node in network.nodes}
        for node in network.nodes:
            if node.name not in self.fused:
                self._add(node)
        kinds = {node.name: kind_of(node.interval) for node in network.nodes}
        sizes = {
            node.name: math.prod(node.shape) * SIZES[kinds[node.name]] for node in network.nodes
        }
        output = self._root(network.output)
        offsets, values = plan([one.use for one in self.instructions], sizes, [output])
        places = {name: Place(kind=kinds[name], offset=offset) for name, offset in offsets.items()}
        places[network.input] = Place(kind=IMAGE, offset=0)
        encoded = [instruction.encode(places) for instruction in self.instructions]
        body = (
            words(*network.input_shape, network.input_bits, network.fraction_bits)
            + struct.pack("<d", float(network.logit_scale))
            + words(values, max(instruction.scratch for instruction in self.instructions))
            + words(math.prod(self.nodes[network.output].shape))
            + places[output].bytes()
            + words(len(encoded))
            + b"".join(encoded)
        )
        sealed = body + words(PROGRAM_VERSION, len(body) + 16)
        return sealed + words(zlib.crc32(sealed)) + MAGIC

    def _root(self, name: str) -> str:
        while name in self.aliases:
            name = self.aliases[name]
        return name

    def _add(self, node: IntegerNode) -> None:
        adders: dict[type[Any], Callable[[IntegerNode, Any], None]] = {
            ToFixed: lambda n, o: self._map(n, Clamp(low=o.low, high=o.high)),
            Convolve: self._add_convolution,
            Multiply: self._add_convolution,
            Requantize: self._map,
            Quantize: self._map,
            Clamp: self._map,
            Sum: self._add_sum,
            Maximum: self._add_pool,
            Total: self._add_pool,
            Flat: self._add_alias,
            Join: self._add_join,
            Repeat: self._add_repeat,
        }
        adders[type(node.operation)](node, node.operation)

    def _put(
        self,
        reads: tuple[str, ...],
        writes: tuple[str, ...],
        encode: Callable[[Mapping[str, Place]], bytes],
        *,
        in_place: bool = False,
        scratch: int = 0,
    ) -> None:
        use = Use(reads=reads, writes=writes, in_place=in_place)
        self.instructions.append(_Instruction(use=use, encode=encode, scratch=scratch))

    def _sources(self, node: IntegerNode) -> tuple[str, ...]:
        return tuple(self._root(name) for name in node.inputs)

    # --- instructions -----------------------------------------------------------------------------

    def _add_alias(self, node: IntegerNode, _operation: Flat) -> None:
        self.aliases[node.name] = node.inputs[0]

    def _map(self, node: IntegerNode, operation: Finishing) -> None:
        (source,) = self._sources(node)
        channels, plane = node.shape[0], math.prod(node.shape[1:])
        self._put(
            (source,),
            (node.name,),
            lambda places: (
                words(_MAP)
                + places[source].bytes()
                + words(channels, plane)
                + finishing_bytes(operation, places[node.name])
            ),
            in_place=True,
            scratch=thresholds_scratch(operation),
        )

    def _add_convolution(self, node: IntegerNode, operation: Convolve | Multiply) -> None:
        (source,) = self._sources(node)
        readers = [reader for reader in self.network.nodes if node.name in reader.inputs]
        finishing = [
            (reader.name, reader.operation)
            for reader in readers
            if isinstance(reader.operation, (Requantize, Quantize))
        ]
        posts: list[tuple[str, Finishing]] = [*finishing[:_FUSED]]
        self.fused.update(name for name, _ in posts)
        if len(posts) < len(readers) or node.name == self.network.output:
            posts.append((node.name, _KEPT))
        layer, coded = self.network.layers[operation.layer], self.coded.layers[operation.layer]
        kind = sum_kind(layer, coded)
        geometry = _geometry(node, operation, self._shape(node.inputs[0]), layer.weights.shape)
        sums = rounded_up(math.prod(node.shape[1:]) * SIZES[kind])
        taps = taps_scratch((*layer.weights.shape[2:], 1, 1)[:2])
        self._put(
            (source,),
            tuple(name for name, _ in posts),
            lambda places: (
                words(_CONVOLVE)
                + places[source].bytes()
                + geometry
                + words(kind, weight_kind(coded))
                + weight_bytes(layer, coded, self.stored)
                + words(len(posts))
                + b"".join(finishing_bytes(how, places[name]) for name, how in posts)
            ),
            scratch=max(thresholds_scratch(how) for _, how in posts)
            + sums
            + weight_scratch(coded, sums)
            + taps,
        )

    def _add_sum(self, node: IntegerNode, _operation: Sum) -> None:
        sources = self._sources(node)
        count = math.prod(node.shape)
        self._put(
            sources,
            (node.name,),
            lambda places: (
                words(_SUM, count)
                + b"".join(places[name].bytes() for name in (*sources, node.name))
            ),
            in_place=True,
        )

    def _add_pool(self, node: IntegerNode, operation: Maximum | Total) -> None:
        (source,) = self._sources(node)
        channels, *extents = self._shape(node.inputs[0])
        padding: Pair = (0, 0)
        opcode = _TOTAL
        if isinstance(operation, Maximum):
            opcode, padding = _MAXIMUM, operation.padding
        numbers = (
            channels,
            *extents,
            *node.shape[1:],
            *operation.kernel,
            *operation.stride,
            *padding,
        )
        self._put(
            (source,),
            (node.name,),
            lambda places: (
                words(opcode) + places[source].bytes() + places[node.name].bytes() + words(*numbers)
            ),
        )

    def _add_repeat(self, node: IntegerNode, operation: Repeat) -> None:
        (source,) = self._sources(node)
        numbers = (*self._shape(node.inputs[0]), *operation.scale)
        self._put(
            (source,),
            (node.name,),
            lambda places: (
                words(_REPEAT)
                + places[source].bytes()
                + places[node.name].bytes()
                + words(*numbers)
            ),
        )

    def _add_join(self, node: IntegerNode, _operation: Join) -> None:
        before = 0
        for name in node.inputs:
            self._add_piece(node, name, before)
            before += math.prod(self._shape(name))

    def _add_piece(self, node: IntegerNode, name: str, before: int) -> None:
        """Copy one input of a `Join` behind so many numbers of its result."""
        source = self._root(name)
        channels, *extents = self._shape(name)

        def encode(places: Mapping[str, Place]) -> bytes:
            to = places[node.name]
            piece = Place(kind=to.kind, offset=to.offset + before * SIZES[to.kind])
            return (
                words(_MAP)
                + places[source].bytes()
                + words(channels, math.prod(extents))
                + finishing_bytes(_KEPT, piece)
            )

        self._put((source,), (node.name,), encode)

    def _shape(self, name: str) -> Shape:
        return self.network.input_shape if name == self.network.input else self.nodes[name].shape


def _geometry(
    node: IntegerNode, operation: Convolve | Multiply, source: Shape, weights: Shape
) -> bytes:
    """Return channels, extents, kernel, stride, padding and dilation of a weighted sum."""
    out, inputs = weights[:2]
    if isinstance(operation, Multiply):
        return words(1, inputs, out, *[1] * 8, 0, 0, 1, 1)
    if out % operation.groups or source[0] != inputs * operation.groups:
        raise IntegerError("A convolution's groups do not fit its weights.", where=node.name)
    return words(
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
