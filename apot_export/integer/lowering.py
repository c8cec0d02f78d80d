"""From a coded network to an integer network, every range proven on the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from apot_export.errors import IntegerError
from apot_export.integer._input import chosen_input_bits, fixed_input
from apot_export.integer._scales import (
    fused,
    precise_requantizer,
    range_of,
    requantizer,
    round_half_up,
    stream_thresholds,
)
from apot_export.integer.network import (
    Clamp,
    Convolve,
    Flat,
    IntegerLayer,
    IntegerNetwork,
    IntegerNode,
    IntegerOperation,
    Join,
    Maximum,
    Multiply,
    Quantize,
    Repeat,
    Requantize,
    Sum,
    Total,
)
from apot_export.integer.pixels import Pixels
from apot_export.integer.ranges import (
    MULTIPLIER_BITS,
    STREAM_LIMIT,
    SUM_LIMIT,
    Range,
    constant,
    of_sums,
    require_below,
)
from apot_export.integer.weights import integer_weights
from apot_export.network import (
    Add,
    AveragePool,
    Clip,
    CodedLayer,
    CodedNetwork,
    Concat,
    Convolution,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Node,
    QuantizeActivation,
    Relu,
    ScaleBias,
    Upsample,
)


@dataclass(frozen=True, kw_only=True)
class _Value:
    """An integer value under construction: it stands for integer / units in the real network."""

    units: Fraction
    range: Range
    is_levels: bool = False


def lower(
    network: CodedNetwork,
    *,
    fraction_bits: int,
    input_bits: int | None = None,
    pixels: Pixels | None = None,
) -> IntegerNetwork:
    """Lower a coded network.

    Args:
        network: A network whose weights are all codes, or sign vectors with coordinates as terms.
        fraction_bits: F of the residual stream.
        input_bits: Fraction bits of the input; None for 16, or F if that is more.
        pixels: Normalisation of uint8 pixels, where the network is to read those.

    Raises:
        IntegerError: A layer's weights are floats.
        BoundError: A value could overflow; says which and by how much.
    """
    bits = chosen_input_bits(fraction_bits, input_bits)
    lowering = _Lowering(
        network=network, fraction_bits=fraction_bits, input_bits=bits, pixels=pixels
    )
    return lowering.run()


@dataclass(kw_only=True)
class _Lowering:
    network: CodedNetwork
    fraction_bits: int
    input_bits: int
    pixels: Pixels | None
    nodes: dict[str, IntegerNode] = field(default_factory=dict)
    values: dict[str, _Value] = field(default_factory=dict)
    layers: dict[str, IntegerLayer] = field(default_factory=dict)
    affine: dict[str, tuple[list[Fraction], list[Fraction]]] = field(default_factory=dict)
    """Real scales and biases of each requantized value."""
    before_relu: dict[str, str] = field(default_factory=dict)
    """Value that a ReLU's result comes from: thresholds above 0 are the same on both."""

    def run(self) -> IntegerNetwork:
        network = self.network
        image = f"{network.input}.fixed"
        self._add_input(image)
        renamed = {network.input: image}
        for node in network.nodes:
            inputs = tuple(renamed.get(name, name) for name in node.inputs)
            self._add(node, inputs)
        output = self.values[network.output]
        return IntegerNetwork(
            nodes=self._used(network.output),
            layers=self.layers,
            input=network.input,
            input_shape=(
                network.input_shape[0],
                network.input_shape[1],
                network.input_shape[2],
            ),
            output=network.output,
            logit_scale=1 / output.units,
            fraction_bits=self.fraction_bits,
            input_bits=self.input_bits,
            pixels=self.pixels,
        )

    def _add_input(self, image: str) -> None:
        network = self.network
        lowered, found = fixed_input(image, network.input_shape[0], self.input_bits, self.pixels)
        self.values[image] = _Value(units=Fraction(1 << self.input_bits), range=found)
        self._record(image, (network.input,), lowered, network.input_shape)

    def _used(self, output: str) -> tuple[IntegerNode, ...]:
        """Drop what no one reads: values whose only readers now read the sums they came from."""
        wanted = {output}
        for node in reversed(self.nodes.values()):
            if node.name in wanted:
                wanted.update(node.inputs)
        return tuple(node for node in self.nodes.values() if node.name in wanted)

    # --- nodes ------------------------------------------------------------------------------------

    def _add(self, node: Node, inputs: tuple[str, ...]) -> None:
        operation = node.operation
        adders: dict[type[Any], Callable[[Node, Any, tuple[str, ...]], None]] = {
            Convolution: self._add_weighted,
            Linear: self._add_weighted,
            ScaleBias: self._add_scale,
            QuantizeActivation: self._add_quantizer,
            Add: self._add_sum,
            Concat: self._add_join,
            Relu: self._add_relu,
            Clip: self._add_clip,
            AveragePool: self._add_average,
            GlobalAveragePool: self._add_average,
        }
        adder = adders.get(type(operation), self._add_plain)
        adder(node, operation, inputs)

    def _add_weighted(
        self, node: Node, operation: Convolution | Linear, inputs: tuple[str, ...]
    ) -> None:
        value = self.values[inputs[0]]
        weights, fraction = integer_weights(self.network.layers[operation.layer])
        groups, read = 1, value.range
        lowered: IntegerOperation = Multiply(layer=operation.layer)
        if isinstance(operation, Convolution):
            groups = operation.groups
            read = read.with_zero() if any(operation.padding) else read
            lowered = Convolve(
                layer=operation.layer,
                stride=operation.stride,
                padding=operation.padding,
                dilation=operation.dilation,
                groups=groups,
            )
        found, bound = of_sums(node.name, weights, groups, read)
        self.layers[operation.layer] = IntegerLayer(
            name=operation.layer,
            weights=weights,
            fraction_bits=fraction,
            bound=bound,
            reads_levels=value.is_levels,
        )
        if value.is_levels:
            require_below(STREAM_LIMIT, bound, node.name, "An accumulator")
        units = value.units * 2**fraction
        self._put(node.name, inputs, lowered, _Value(units=units, range=found))

    def _add_scale(self, node: Node, operation: ScaleBias, inputs: tuple[str, ...]) -> None:
        value = self.values[inputs[0]]
        scales = [Fraction(float(scale)) for scale in operation.scale]
        biases = [Fraction(float(bias)) for bias in operation.bias]
        uniform = len(set(scales)) == 1 and scales[0] > 0
        if node.name == self.network.output and uniform:
            # Logits keep the scale of their sums; only the bias is added, rounded to it.
            units = value.units / scales[0]
            offset = [round_half_up(bias * units) for bias in biases]
            lowered = Requantize(
                multiplier=np.ones(1, dtype=np.int64),
                offset=np.array(offset, dtype=np.int64),
                shift=0,
            )
            self._put(
                node.name,
                inputs,
                lowered,
                _Value(units=units, range=range_of(lowered, value.range)),
            )
            return
        self._requantize(node.name, inputs, scales, biases)

    def _requantize(
        self,
        name: str,
        inputs: tuple[str, ...],
        scales: list[Fraction],
        biases: list[Fraction],
    ) -> None:
        value = self.values[inputs[0]]
        units = Fraction(1 << self.fraction_bits)
        lowered = requantizer(
            name,
            [scale * units / value.units for scale in scales],
            [bias * units for bias in biases],
            value.range,
            MULTIPLIER_BITS,
        )
        found = _Value(units=units, range=range_of(lowered, value.range))
        require_below(STREAM_LIMIT, found.range.largest, name, "A fixed-point value")
        self._put(name, inputs, lowered, found)
        self.affine[name] = (scales, biases)

    def _add_quantizer(
        self, node: Node, operation: QuantizeActivation, inputs: tuple[str, ...]
    ) -> None:
        layer = self.network.layers[operation.layer]
        if not isinstance(layer, CodedLayer) or layer.activation is None:
            raise TypeError(f"{operation.layer} has no input quantizer")
        quantizer = layer.activation
        source = inputs[0]
        thresholds, levels = stream_thresholds(quantizer, self.values[source].units)
        while source in self.before_relu:
            source = self.before_relu[source]
        read = self.values[source].range
        if source in self.affine:
            scales, biases = self.affine[source]
            (source,) = self.nodes[source].inputs
            value = self.values[source]
            read = value.range
            precise, units = precise_requantizer(node.name, scales, biases, value.units, read)
            thresholds, levels = stream_thresholds(quantizer, units)
            lowered = fused(thresholds, levels, precise, read)
        else:
            interval = read.interval
            within = np.clip(thresholds, interval.low, interval.high + 1).astype(np.int64)
            lowered = Quantize(
                thresholds=within[None], direction=np.ones(1, dtype=np.int64), levels=levels
            )
        channels = read.low.size
        result = _Value(
            units=Fraction(1),
            range=constant(int(levels[0]), int(levels[-1]), channels),
            is_levels=True,
        )
        self._put(node.name, (source,), lowered, result)

    def _add_sum(self, node: Node, _operation: Add, inputs: tuple[str, ...]) -> None:
        names = tuple(self._aligned(node, name, number) for number, name in enumerate(inputs))
        first, second = (self.values[name] for name in names)
        found = Range(
            low=first.range.low + second.range.low, high=first.range.high + second.range.high
        )
        require_below(STREAM_LIMIT, found.largest, node.name, "A sum")
        self._put(node.name, names, Sum(), _Value(units=first.units, range=found))

    def _add_join(self, node: Node, _operation: Concat, inputs: tuple[str, ...]) -> None:
        names = tuple(self._aligned(node, name, number) for number, name in enumerate(inputs))
        ranges = [self.values[name].range for name in names]
        found = Range(
            low=np.concatenate([one.low for one in ranges]),
            high=np.concatenate([one.high for one in ranges]),
        )
        self._put(node.name, names, Join(), _Value(units=self.values[names[0]].units, range=found))

    def _aligned(self, node: Node, name: str, number: int) -> str:
        """Return a value in units of the residual stream, requantized if it has others."""
        if self.values[name].units == 1 << self.fraction_bits:
            return name
        aligned = f"{node.name}.input{number}"
        self._requantize(aligned, (name,), [Fraction(1)], [Fraction(0)])
        return aligned

    def _add_relu(self, node: Node, _operation: Relu, inputs: tuple[str, ...]) -> None:
        self._clamp(node, inputs, Clamp(low=0, high=None))
        self.before_relu[node.name] = inputs[0]

    def _add_clip(self, node: Node, operation: Clip, inputs: tuple[str, ...]) -> None:
        units = self.values[inputs[0]].units
        low, high = (
            round_half_up(Fraction(float(np.float32(limit))) * units)
            for limit in (operation.minimum, operation.maximum)
        )
        self._clamp(node, inputs, Clamp(low=low, high=high))

    def _clamp(self, node: Node, inputs: tuple[str, ...], clamp: Clamp) -> None:
        value = self.values[inputs[0]]
        low, high = value.range.low, value.range.high
        if clamp.low is not None:
            low, high = np.maximum(low, clamp.low), np.maximum(high, clamp.low)
        if clamp.high is not None:
            low, high = np.minimum(low, clamp.high), np.minimum(high, clamp.high)
        result = _Value(units=value.units, range=Range(low=low, high=high))
        self._put(node.name, inputs, clamp, result)

    def _add_average(
        self, node: Node, operation: AveragePool | GlobalAveragePool, inputs: tuple[str, ...]
    ) -> None:
        value = self.values[inputs[0]]
        shape = self._shape(inputs[0])
        kernel = stride = (shape[1], shape[2])
        if isinstance(operation, AveragePool):
            kernel, stride = operation.kernel, operation.stride
        window = math.prod(kernel)
        found = Range(low=value.range.low * window, high=value.range.high * window)
        require_below(SUM_LIMIT, found.largest, node.name, "A sum of a pool's window")
        lowered = Total(kernel=kernel, stride=stride)
        self._put(node.name, inputs, lowered, _Value(units=value.units * window, range=found))

    def _add_plain(self, node: Node, operation: Any, inputs: tuple[str, ...]) -> None:
        value = self.values[inputs[0]]
        found = value.range
        lowered: IntegerOperation
        if isinstance(operation, MaxPool):
            lowered = Maximum(
                kernel=operation.kernel, stride=operation.stride, padding=operation.padding
            )
        elif isinstance(operation, Flatten):
            lowered = Flat()
            places = math.prod(self._shape(inputs[0])[1:])
            found = Range(low=np.repeat(found.low, places), high=np.repeat(found.high, places))
        elif isinstance(operation, Upsample):
            lowered = Repeat(scale=operation.scale)
        else:
            raise IntegerError(
                "An operation has no integer form.",
                where=node.name,
                got=type(operation).__name__,
            )
        self._put(node.name, inputs, lowered, _Value(units=value.units, range=found))

    # --- keeping ----------------------------------------------------------------------------------

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.nodes[name].shape

    def _put(
        self, name: str, inputs: tuple[str, ...], operation: IntegerOperation, value: _Value
    ) -> None:
        self.values[name] = value
        shape = self.network.shapes.get(name) or self._shape(inputs[0])
        self._record(name, inputs, operation, tuple(shape))

    def _record(
        self,
        name: str,
        inputs: tuple[str, ...],
        operation: IntegerOperation,
        shape: tuple[int, ...],
    ) -> None:
        self.nodes[name] = IntegerNode(
            name=name,
            inputs=inputs,
            operation=operation,
            shape=shape,
            interval=self.values[name].range.interval,
        )
