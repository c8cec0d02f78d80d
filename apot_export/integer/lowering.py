"""Lower a coded network to an integer network, and prove the range of every value on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from apot_export.errors import IntegerError
from apot_export.integer import fixed_point as fixed
from apot_export.integer import network as integer_op
from apot_export.integer.network import (
    IntegerLayer,
    IntegerNetwork,
    IntegerNode,
    IntegerOperation,
    Integers,
    Pixels,
)
from apot_export.network import CodedNetwork, Node, Shape
from apot_export.network import operations as op
from apot_export.network.layers import CodedLayer, FloatLayer, Layer, PlaneLayer
from apot_export.network.planes import term_values


@dataclass(frozen=True, kw_only=True)
class _Value:
    """An integer value under construction: it stands for integer / units in the real network."""

    units: Fraction
    range: fixed.Range
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
        pixels: Normalisation of uint8 pixels, for a network that reads those; None: float32.

    Raises:
        IntegerError: A layer's weights are floats.
        BoundError: A value could overflow; says which and by how much.
    """
    bits = fixed.chosen_input_bits(fraction_bits, input_bits)
    return _Lowering(network=network, fraction_bits=fraction_bits).run(bits, pixels)


@dataclass(kw_only=True)
class _Lowering:
    network: CodedNetwork
    fraction_bits: int
    nodes: dict[str, IntegerNode] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    values: dict[str, _Value] = field(default_factory=dict)
    layers: dict[str, IntegerLayer] = field(default_factory=dict)
    affine: dict[str, tuple[list[Fraction], list[Fraction]]] = field(default_factory=dict)
    """Real scales and biases of each requantized value."""
    before_relu: dict[str, str] = field(default_factory=dict)
    """Value that a ReLU's result comes from: thresholds above 0 are the same on both."""

    def run(self, input_bits: int, pixels: Pixels | None) -> IntegerNetwork:
        network = self.network
        if network.further_outputs:
            raise IntegerError(
                "An all-integer network has one output.",
                where=", ".join(network.further_outputs),
                fix="use the float models (without --integer), or return one result",
            )
        self.shapes.update(network.shapes)
        image = f"{network.input}.fixed"
        lowered, found = fixed.fixed_input(image, network.input_shape[0], input_bits, pixels)
        self._put(image, (network.input,), lowered, Fraction(1 << input_bits), found)
        for node in network.nodes:
            self._add(node, tuple(image if name == network.input else name for name in node.inputs))
        self._fit_logits(network.output)
        return IntegerNetwork(
            nodes=self._used(network.output),
            layers=self.layers,
            input=network.input,
            input_shape=network.input_shape,
            output=network.output,
            logit_scale=1 / self.values[network.output].units,
            fraction_bits=self.fraction_bits,
            input_bits=input_bits,
            pixels=pixels,
        )

    def _fit_logits(self, output: str) -> None:
        """Shift logits that could reach 2^31 down to int32, which every runtime has."""
        value = self.values[output]
        surplus = value.range.largest.bit_length() - fixed.STREAM_LIMIT.bit_length() + 1
        if surplus <= 0:
            return
        node = self.nodes.pop(output)
        wide = f"{output}.wide"
        self.shapes[wide] = node.shape
        self._put(wide, node.inputs, node.operation, value.units, value.range)
        lowered = fixed.shift_right(surplus + 1)
        found = fixed.range_of(lowered, value.range)
        self._put(output, (wide,), lowered, value.units / 2 ** (surplus + 1), found)

    def _used(self, output: str) -> tuple[IntegerNode, ...]:
        """Drop values that no node reads, as those whose readers now read the sums behind them."""
        wanted = {output}
        for node in reversed(self.nodes.values()):
            if node.name in wanted:
                wanted.update(node.inputs)
        return tuple(node for node in self.nodes.values() if node.name in wanted)

    # --- nodes ------------------------------------------------------------------------------------

    def _add(self, node: Node, inputs: tuple[str, ...]) -> None:
        self._require_form(node)
        name, operation, value = node.name, node.operation, self.values[inputs[0]]
        match operation:
            case op.Convolution() | op.Linear():
                self._add_weighted(name, operation, inputs)
            case op.ScaleBias():
                self._add_scale(name, operation, inputs)
            case op.QuantizeActivation():
                self._add_quantizer(name, operation, inputs[0])
            case op.Add() | op.Concat():
                self._add_aligned(name, operation, inputs)
            case op.Relu():
                self._add_clamp(name, inputs, integer_op.Clamp(low=0, high=None))
                self.before_relu[name] = inputs[0]
            case op.Clip():
                low, high = (
                    fixed.round_half_up(Fraction(float(np.float32(limit))) * value.units)
                    for limit in (operation.minimum, operation.maximum)
                )
                self._add_clamp(name, inputs, integer_op.Clamp(low=low, high=high))
            case op.AveragePool() | op.GlobalAveragePool():
                self._add_average(name, operation, inputs)
            case op.Flatten():
                found = value.range.repeated(math.prod(self.shapes[inputs[0]][1:]))
                self._put(name, inputs, operation, value.units, found)
            case op.MaxPool() | op.Upsample():
                self._put(name, inputs, operation, value.units, value.range)

    def _require_form(self, node: Node) -> None:
        if not self.network.is_elementary(node):
            raise IntegerError(
                "An operation of the network has no integer form.",
                where=node.name,
                expected="layers, sums of one shape, concatenated channels, clips, pools, repeats",
                got=f"{type(node.operation).__name__} of "
                + ", ".join(str(list(self.network.shapes[name])) for name in node.inputs),
                fix="use the float models (without --integer), which compute it",
            )

    def _add_weighted(
        self, name: str, operation: op.Convolution | op.Linear, inputs: tuple[str, ...]
    ) -> None:
        value = self.values[inputs[0]]
        weights, fraction = integer_weights(self.network.layers[operation.layer])
        groups, read = 1, value.range
        if isinstance(operation, op.Convolution):
            groups = operation.groups
            read = read.with_zero() if any(operation.padding) else read
        found, bound = fixed.of_sums(name, weights, groups, read)
        self.layers[operation.layer] = IntegerLayer(
            name=operation.layer,
            weights=weights,
            fraction_bits=fraction,
            bound=bound,
            reads_levels=value.is_levels,
        )
        if value.is_levels:
            fixed.require_below(fixed.STREAM_LIMIT, bound, name, "An accumulator")
        self._put(name, inputs, operation, value.units * 2**fraction, found)

    def _add_scale(self, name: str, operation: op.ScaleBias, inputs: tuple[str, ...]) -> None:
        value = self.values[inputs[0]]
        scales = [Fraction(float(scale)) for scale in operation.scale]
        biases = [Fraction(float(bias)) for bias in operation.bias]
        if name != self.network.output or len(set(scales)) > 1 or scales[0] <= 0:
            self._requantize(name, inputs, scales, biases)
            return
        # Logits keep the scale of their sums; only the bias is added, rounded to it.
        units = value.units / scales[0]
        lowered = integer_op.Requantize(
            multiplier=np.ones(1, dtype=np.int64),
            offset=np.array([fixed.round_half_up(bias * units) for bias in biases], dtype=np.int64),
            shift=0,
        )
        self._put(name, inputs, lowered, units, fixed.range_of(lowered, value.range))

    def _requantize(
        self,
        name: str,
        inputs: tuple[str, ...],
        scales: list[Fraction],
        biases: list[Fraction],
    ) -> None:
        """Add a node that brings a value times scale plus bias into units of the stream."""
        value = self.values[inputs[0]]
        units = Fraction(1 << self.fraction_bits)
        ratios = [scale * units / value.units for scale in scales]
        lowered = fixed.requantizer(name, ratios, [bias * units for bias in biases], value.range)
        found = fixed.range_of(lowered, value.range)
        fixed.require_below(fixed.STREAM_LIMIT, found.largest, name, "A fixed-point value")
        self._put(name, inputs, lowered, units, found)
        self.affine[name] = (scales, biases)

    def _add_quantizer(self, name: str, operation: op.QuantizeActivation, source: str) -> None:
        quantizer = self.network.input_quantizer(operation.layer)
        thresholds, levels = fixed.stream_thresholds(quantizer, self.values[source].units)
        while quantizer.first_index == 0 and source in self.before_relu:
            source = self.before_relu[source]
        read = self.values[source].range
        if source in self.affine:
            scales, biases = self.affine[source]
            (source,) = self.nodes[source].inputs
            read = self.values[source].range
            precise, units = fixed.precise_requantizer(
                name, scales, biases, self.values[source].units, read
            )
            thresholds, levels = fixed.stream_thresholds(quantizer, units)
            lowered = fixed.fused(thresholds, levels, precise, read)
        else:
            interval = read.interval
            within = np.clip(thresholds, interval.low, interval.high + 1).astype(np.int64)
            lowered = integer_op.Quantize(
                thresholds=within[None], direction=np.ones(1, dtype=np.int64), levels=levels
            )
        found = fixed.constant(int(levels[0]), int(levels[-1]), read.low.size)
        self._put(name, (source,), lowered, Fraction(1), found, is_levels=True)

    def _add_aligned(
        self, name: str, operation: op.Add | op.Concat, inputs: tuple[str, ...]
    ) -> None:
        """Add an operation on values in units of the residual stream; requantize those in others.

        Both operands may be one value, so the name of a requantized operand has its number.
        """
        units = Fraction(1 << self.fraction_bits)
        names = []
        for number, source in enumerate(inputs):
            aligned = source
            if self.values[source].units != units:
                aligned = f"{name}.input{number}"
                self._requantize(aligned, (source,), [Fraction(1)], [Fraction(0)])
            names.append(aligned)
        ranges = [self.values[aligned].range for aligned in names]
        lows, highs = [one.low for one in ranges], [one.high for one in ranges]
        if isinstance(operation, op.Add):
            found = fixed.Range(low=lows[0] + lows[1], high=highs[0] + highs[1])
            fixed.require_below(fixed.STREAM_LIMIT, found.largest, name, "A sum")
        else:
            found = fixed.Range(low=np.concatenate(lows), high=np.concatenate(highs))
        self._put(name, tuple(names), operation, units, found)

    def _add_clamp(self, name: str, inputs: tuple[str, ...], clamp: integer_op.Clamp) -> None:
        value = self.values[inputs[0]]
        low, high = value.range.low, value.range.high
        found = fixed.Range(
            low=np.clip(low, clamp.low, clamp.high), high=np.clip(high, clamp.low, clamp.high)
        )
        self._put(name, inputs, clamp, value.units, found)

    def _add_average(
        self, name: str, operation: op.AveragePool | op.GlobalAveragePool, inputs: tuple[str, ...]
    ) -> None:
        value = self.values[inputs[0]]
        _, height, width = self.shapes[inputs[0]]
        lowered = integer_op.WindowSum(kernel=(height, width), stride=(height, width))
        if isinstance(operation, op.AveragePool):
            lowered = integer_op.WindowSum(kernel=operation.kernel, stride=operation.stride)
        window = math.prod(lowered.kernel)
        found = fixed.Range(low=value.range.low * window, high=value.range.high * window)
        fixed.require_below(fixed.SUM_LIMIT, found.largest, name, "A sum of a pool's window")
        self._put(name, inputs, lowered, value.units * window, found)

    def _put(
        self,
        name: str,
        inputs: tuple[str, ...],
        operation: IntegerOperation,
        units: Fraction,
        found: fixed.Range,
        *,
        is_levels: bool = False,
    ) -> None:
        self.values[name] = _Value(units=units, range=found, is_levels=is_levels)
        self.nodes[name] = IntegerNode(
            name=name,
            inputs=inputs,
            operation=operation,
            # A node that the coded network has not does not change the shape.
            shape=self.shapes.setdefault(name, self.shapes[inputs[0]]),
            interval=found.interval,
        )


# --- weights --------------------------------------------------------------------------------------


def integer_weights(layer: Layer) -> tuple[Integers, int]:
    """Return a layer's integer weights and their fraction bits.

    Raises:
        IntegerError: The weights are floats.
    """
    if isinstance(layer, CodedLayer):
        return layer.levels().astype(np.int64), 0
    if isinstance(layer, PlaneLayer) and layer.planes.terms is not None:
        coordinates, bits = dyadic_coordinates(layer)
        return layer.planes.scaled_by(coordinates).astype(np.int64), bits
    is_float = isinstance(layer, FloatLayer)
    raise IntegerError(
        "A layer's weights are not integers.",
        where=layer.name,
        expected="codes, or coordinates as sums of powers of two (--alpha-terms K)",
        got=f"{'float32' if is_float else 'sums of float32 coordinates'} weights",
        fix="use the float models (without --integer), or convert a quantized network"
        if is_float
        else "convert the checkpoint with --integer --alpha-terms 3",
    )


def dyadic_coordinates(layer: PlaneLayer) -> tuple[NDArray[np.float64], int]:
    """Return coordinates that are sums of powers of two as integers, and their fraction bits.

    Returns:
        float64 integers [bases], each below 2 ** 31 in magnitude, and the bits.

    Raises:
        IntegerError: The largest is too many times the smallest power.
    """
    planes = layer.planes
    if planes.terms is None:
        raise TypeError(f"{layer.name} has coordinates that are floats")
    addends = term_values(planes.terms)
    used = np.abs(addends[addends != 0])
    bits = max(0, -int(np.frexp(used.min())[1] - 1)) if used.size else 0
    integers = addends.sum(axis=1) * 2.0**bits
    if np.abs(integers).max(initial=0) >= fixed.STREAM_LIMIT:
        raise IntegerError(
            "The coordinates of a layer differ too much to be integers of one scale.",
            where=layer.name,
            expected="a largest one below 2^31 times the smallest power of two among their terms",
            got=f"{np.abs(integers).max():.3g}",
            fix="convert with fewer terms: --alpha-terms K",
        )
    return integers, bits
