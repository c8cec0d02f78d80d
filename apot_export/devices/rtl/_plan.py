"""What the engine is told of a layer: its geometry, its widths, and its memories' numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.devices.vectors import bits_of, finishing_nodes, weighted_node
from apot_export.errors import ExportError
from apot_export.integer import IntegerNetwork
from apot_export.integer.network import IntegerNode, Integers, Interval, Quantize, Requantize
from apot_export.network import CodedLayer, CodedNetwork, Convolution, Layer
from apot_export.network.bitpack import Codes
from apot_export.network.codebook import Codebook

Pair = tuple[int, int]
STORE, QUANTIZE, REQUANTIZE = range(3)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A convolution; a matrix product has the extents 1."""

    groups: int
    inputs: int
    """Channels of one group, as `outputs`."""
    outputs: int
    extent: Pair
    """Height and width of the input, as all pairs."""
    out_extent: Pair
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @property
    def taps(self) -> int:
        """Products of a sum."""
        return self.inputs * math.prod(self.kernel)

    @property
    def positions(self) -> int:
        """Sums of a channel."""
        return math.prod(self.out_extent)


@dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """What becomes of a layer's sums, and the words that tell it channel by channel."""

    mode: int
    node: str
    """Whose values the results are."""
    words: Integers
    """[outputs of all groups, words of a record]; see apot_finish.sv."""
    bits: int
    """Of a word."""
    result_bits: int
    levels: tuple[int, ...] = (0,)
    """Of a quantizer."""
    shift: int = 0
    """Of a requantizer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerPlan:
    """A coded layer on the engine."""

    name: str
    codebook: Codebook
    codes: Codes
    """[outputs of all groups, taps]."""
    packed: NDArray[np.uint8]
    """The bit stream of FORMAT.md, section 3.1."""
    geometry: Geometry
    lanes: int
    x: Interval
    """Proven range of the layer's inputs."""
    sum_bits: int
    records: Records

    @property
    def blocks(self) -> int:
        """Lines of outputs of a group."""
        return self.geometry.outputs // self.lanes

    @property
    def x_bits(self) -> int:
        """Bits of an input, in two's complement where some are negative."""
        return bits_of(self.x.low, self.x.high)

    @property
    def numbers(self) -> int:
        """Numbers that the layer reads."""
        return self.geometry.groups * self.geometry.inputs * math.prod(self.geometry.extent)

    @property
    def cycles(self) -> int:
        """Clock cycles of one image, but for a few at the start and the end."""
        geometry, finishing = self.geometry, len(self.records.words[0]) + 4
        cycles = max(geometry.taps, finishing if self.records.mode != STORE else 1)
        return geometry.groups * self.blocks * geometry.positions * cycles

    def by_lanes(self, rows: NDArray[Any]) -> Integers:
        """Arrange rows, one an output, as the engine has them.

        Returns:
            int64 [blocks of all groups, columns, lanes].
        """
        return rows.reshape(-1, self.lanes, rows.shape[1]).transpose(0, 2, 1).astype(np.int64)


def plan_layer(
    coded: CodedNetwork, network: IntegerNetwork, layer: str, *, lanes: int
) -> LayerPlan:
    """Plan a layer of codes.

    Args:
        coded: The coded network.
        network: The integer network made of it.
        layer: Name of the layer.
        lanes: Processing elements of a line, at most: it gets as many as divide a group's outputs.

    Raises:
        ExportError: The network has no such layer, or its weights are no codes.
    """
    node = weighted_node(network, layer)
    codes = _coded(coded.layers[layer])
    geometry = _geometry(network, node, codes.shape)
    source = next((n for n in network.nodes if n.name == node.inputs[0]), None)
    if source is None:
        raise TypeError(f"{layer} reads the image itself")
    bound = network.layers[layer].bound
    return LayerPlan(
        name=layer,
        codebook=codes.codebook,
        codes=codes.codes.reshape(codes.shape[0], -1),
        packed=codes.packed,
        geometry=geometry,
        lanes=next(n for n in range(lanes, 0, -1) if geometry.outputs % n == 0),
        x=source.interval,
        sum_bits=bits_of(-bound, bound),
        records=_records(network, node, codes.shape[0], bits_of(-bound, bound)),
    )


def _coded(layer: Layer) -> CodedLayer:
    if not isinstance(layer, CodedLayer):
        raise ExportError(
            "The engine computes with codes.",
            where=layer.name,
            expected="a layer of coded weights",
            got="weights that are sums of scaled sign vectors",
            fix="name other layers with --layer",
        )
    return layer


def _geometry(network: IntegerNetwork, node: IntegerNode, shape: tuple[int, ...]) -> Geometry:
    operation = node.operation
    if not isinstance(operation, Convolution):
        return Geometry(
            groups=1,
            inputs=shape[1],
            outputs=shape[0],
            extent=(1, 1),
            out_extent=(1, 1),
            kernel=(1, 1),
        )
    source = next(n for n in network.nodes if n.name == node.inputs[0])
    _, height, width = source.shape
    _, out_height, out_width = node.shape
    return Geometry(
        groups=operation.groups,
        inputs=shape[1],
        outputs=shape[0] // operation.groups,
        extent=(height, width),
        out_extent=(out_height, out_width),
        kernel=(shape[2], shape[3]),
        stride=operation.stride,
        padding=operation.padding,
        dilation=operation.dilation,
    )


# --- what becomes of the sums ---------------------------------------------------------------------


def _records(network: IntegerNetwork, node: IntegerNode, outputs: int, sum_bits: int) -> Records:
    """Return a quantizer's records where one reads the sums, else a requantizer's, else none."""
    readers = finishing_nodes(network, node.name)
    readers.sort(key=lambda reader: not isinstance(reader.operation, Quantize))
    if not readers:
        return Records(
            mode=STORE,
            node=node.name,
            words=np.zeros((outputs, 1), dtype=np.int64),
            bits=1,
            result_bits=sum_bits,
        )
    reader = readers[0]
    interval = reader.interval
    operation = reader.operation
    if isinstance(operation, Quantize):
        words, levels = _threshold_words(operation), tuple(operation.levels.tolist())
        mode, shift = QUANTIZE, 0
    elif isinstance(operation, Requantize):
        words, levels = _bit_words(operation), (0,)
        mode, shift = REQUANTIZE, operation.shift
    else:
        raise TypeError(f"{reader.name} finishes nothing")
    return Records(
        mode=mode,
        node=reader.name,
        words=np.broadcast_to(words, (outputs, words.shape[1])),
        bits=2 if mode == REQUANTIZE else bits_of(int(words.min()), int(words.max()), signed=True),
        result_bits=bits_of(interval.low, interval.high),
        levels=levels,
        shift=shift,
    )


def _threshold_words(operation: Quantize) -> Integers:
    """Return a direction and thresholds a channel, turned so that the sum itself is compared.

    A falling channel counts t <= -x, which is x < 1 - t.
    """
    falling = (operation.direction < 0)[:, None]
    thresholds = np.where(falling, 1 - operation.thresholds, operation.thresholds)
    return np.concatenate([falling.astype(np.int64), thresholds], axis=1)


def _bit_words(operation: Requantize) -> Integers:
    """Return the bits of multiplier and offset of every channel, the highest first."""
    both = np.stack(np.broadcast_arrays(operation.multiplier, operation.offset))
    shifts = np.arange(bits_of(int(both.min()), int(both.max()), signed=True))[::-1]
    multiplier, offset = both[:, :, None] >> shifts & 1
    return multiplier | offset << 1
