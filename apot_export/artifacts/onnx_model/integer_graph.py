"""The ONNX model of an integer network: integers from the fixed-point image to the logits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from apot_export.artifacts.onnx_model._builder import INPUT, attributes_of
from apot_export.artifacts.onnx_model._exact import DIGIT, LAST, Part, Parts
from apot_export.artifacts.onnx_model._pieces import PieceBuilder
from apot_export.artifacts.onnx_model.opsets import opset_of, require_opset
from apot_export.artifacts.onnx_model.probe import name_of_part
from apot_export.integer import IntegerNetwork
from apot_export.integer import network as integer_op
from apot_export.integer.fixed_point import STREAM_LIMIT
from apot_export.integer.network import IntegerNode
from apot_export.network import CodedNetwork
from apot_export.network import operations as op
from apot_export.network.bounds import FLOAT32_EXACT, IMAGE_LIMIT

_REQUIRED = "float32 that holds integers below 2^24: not TF32, bfloat16 or float16"
_THRESHOLDS_AT_ONCE = 5
"""How many thresholds one operation compares with: few are slow, many take memory."""


def build_integer_model(
    coded: CodedNetwork,
    network: IntegerNetwork,
    *,
    name: str,
    tool: str,
    metadata: Mapping[str, str],
    plain: bool = False,
    batch: int = 0,
    opset: int = 0,
) -> onnx.ModelProto:
    """Build the model of an integer network: standard operators on float32 integers below 2^24.

    Args:
        coded: The network that it was lowered from, whose packed codes the model carries.
        network: The integer network.
        name: Name of the graph.
        tool: Name and version of the producer, separated by a blank.
        metadata: Model properties.
        plain: Store weights as float32 integers, not as codes that a function decodes, and need no
            operator newer than target "plain" does.
        batch: Images in every batch; 0 for any number.
        opset: Operator set, where an older one will do; 0 for the target's own.

    Returns:
        A model with input `images`, float32 (or uint8 pixels) [batch, channels, height, width], and
        output `logits` [batch, classes], int32, or int64 where they could reach 2^31;
        `logit_scale` in its metadata makes them real, `requires` says what a runtime must have.

    Raises:
        IntegerError: An operation is beyond what float32 can carry exactly.
        TargetError: An operator needs a newer operator set.
    """
    graph = _IntegerGraph(
        network=coded,
        input=network.input,
        output=network.output,
        integer=network,
        opset=opset_of(opset, plain=plain),
        batch=batch,
        stores_floats=plain,
    )
    shapes = {network.input: network.input_shape}
    if network.pixels is not None:
        graph.types[network.input] = TensorProto.UINT8
    for node in network.nodes:
        graph.add(node)
        shapes |= {part.tensor: node.shape for part in graph.parts[node.name]}
    graph.add_logits(network.nodes[-1])
    model = graph.model(
        name,
        {**shapes, network.output: network.nodes[-1].shape},
        tool=tool,
        metadata={**metadata, **_facts(network)},
    )
    require_opset(model, opset, plain=plain)
    return model


def logits_are_wide(node: IntegerNode) -> bool:
    """Return whether the last value of an integer network may need more than 32 bits."""
    return max(-node.interval.low, node.interval.high) >= STREAM_LIMIT


def _facts(network: IntegerNetwork) -> dict[str, str]:
    """Return the model properties of an integer network."""
    return {
        "logit_scale": str(network.logit_scale),
        "fraction_bits": str(network.fraction_bits),
        "input_bits": str(network.input_bits),
        "requires": _REQUIRED,
    }


@dataclass(kw_only=True)
class _IntegerGraph(PieceBuilder):
    integer: IntegerNetwork

    def add(self, node: IntegerNode) -> None:
        """Add what an integer node does, its value being that of the parts of its name."""
        adders: dict[type[Any], Callable[[IntegerNode, Any], Parts | list[Part]]] = {
            integer_op.ToFixed: self._to_fixed,
            op.Convolution: self._weighted,
            op.Linear: self._weighted,
            integer_op.Requantize: self._requantize,
            integer_op.Quantize: self._quantize,
            integer_op.WindowSum: self._window_sum,
            integer_op.Clamp: self._clamp,
            op.Add: self._add,
            op.MaxPool: self._max_pool,
        }
        self.place, self.made = node.name, 0
        first = len(self.nodes)
        made = adders.get(type(node.operation), self._rearranged)(node, node.operation)
        made = self._canonical(made, node.interval.low, node.interval.high)
        name = f"{node.name}.float" if node.name == self.integer.output else node.name
        self.parts[node.name] = self._named(name, made, first)

    def _named(self, name: str, made: Parts, first: int) -> Parts:
        """Give a value's parts their names: in the nodes from the first one on."""
        new = {}
        produced = {output for node in self.nodes[first:] for output in node.output}
        named = []
        for part in made:
            wanted = name_of_part(name, part.shift, alone=len(made) == 1)
            if part.tensor in produced:
                new[part.tensor] = wanted
            else:
                self._standard("Identity", [part.tensor], wanted)
            named.append(replace(part, tensor=wanted))
        for node in self.nodes[first:]:
            node.input[:] = [new.get(tensor, tensor) for tensor in node.input]
            node.output[:] = [new.get(tensor, tensor) for tensor in node.output]
            node.name = node.output[0]
        return tuple(named)

    def add_logits(self, node: IntegerNode) -> None:
        """Add the output: the parts of the last value, put together as integers."""
        parts = self.parts[node.name]
        kind = TensorProto.INT64 if logits_are_wide(node) else TensorProto.INT32
        self.types[self.output] = kind
        output, total = self._value(self.output), ""
        self.place, self.made = f"{node.name}.logits", 0
        for part in parts:
            name = f"{self.place}{part.shift}" if total or len(parts) > 1 else output
            scaled = self._scaled(part, part.shift) if part.shift else part
            self._standard("Cast", [scaled.tensor], name, to=kind)
            if total:
                both = output if part is parts[-1] else f"{name}.sum"
                self._standard("Add", [total, name], both)
            total = both if total else name

    def _read(self, node: IntegerNode) -> Parts:
        return self.parts[node.inputs[0]]

    def _source(self, node: IntegerNode) -> IntegerNode:
        """Return the node that makes a node's first input."""
        return next(other for other in self.integer.nodes if other.name == node.inputs[0])

    # --- weighted ---------------------------------------------------------------------------------

    def _weighted(self, node: IntegerNode, operation: op.Convolution | op.Linear) -> list[Part]:
        """Return sums of products: of every piece of the input with every piece of the weights.

        They fit float32 in whatever order they are added. They are rounded, for Winograd's
        algorithm leaves fractions: small ones, where the sums are small too.
        """
        operator, attributes = "Gemm", {"transB": 1}
        if isinstance(operation, op.Convolution):
            operator, attributes = "Conv", attributes_of(operation)
        read = self._source(node).interval
        weights = self._weight_pieces(operation.layer, max(-read.low, read.high))
        widest = max(piece.largest for piece in weights)
        sums = []
        for x, w in itertools.product(self._pieces(self._read(node), widest), weights):
            bound = x.largest * w.largest
            exact = self._made(operator, [x, w], -bound, bound, **attributes)
            rounded = self._made("Round", [exact], -bound, bound)
            sums.append(replace(rounded, shift=x.shift + w.shift))
        return sums

    # --- the rest ---------------------------------------------------------------------------------

    def _to_fixed(self, _: IntegerNode, operation: integer_op.ToFixed) -> list[Part]:
        """Return floor(x * 2^I + 1/2) as floor(2 y) - floor(y) with y = x * 2^I: never rounded."""
        limits = [self._constant(sign * IMAGE_LIMIT).tensor for sign in (-1, 1)]
        image = self._made("Clip", [INPUT, *limits], -IMAGE_LIMIT, IMAGE_LIMIT)
        y, above = self._scaled(image, operation.fraction_bits), []
        low, high = operation.low, operation.high
        if high >= FLOAT32_EXACT:
            rest = self._shifted_right(replace(y, low=low, high=high), DIGIT)
            y = self._made("Sub", [y, self._scaled(rest, DIGIT)], 0, 1 << DIGIT)
            above = [replace(rest, shift=DIGIT)]
            low, high = 0, 1 << DIGIT
        whole = self._made("Floor", [y], low, high)
        doubled = self._made("Floor", [self._scaled(y, 1)], low, high)
        return [self._made("Sub", [doubled, whole], low, high), *above]

    def _requantize(self, node: IntegerNode, operation: integer_op.Requantize) -> list[Part]:
        source = self.parts.get(node.inputs[0])
        if source is None:  # the pixels
            source = (
                self._made("Cast", [INPUT], 0, integer_op.LARGEST_PIXEL, to=TensorProto.FLOAT),
            )
        return self._requantized(
            source,
            operation.multiplier.tolist(),
            operation.offset.tolist(),
            operation.shift,
            _channel_axes(node),
        )

    def _quantize(self, node: IntegerNode, operation: integer_op.Quantize) -> Parts:
        """Return levels[0] and, for every threshold at most x, the step to the next level."""
        axes, steps = _channel_axes(node), np.diff(operation.levels)
        x = self._read(node)
        if (operation.direction < 0).any():
            direction = self._constant(operation.direction.reshape(axes))
            x = tuple(replace(self._product(one, direction), shift=one.shift) for one in x)
            x = x if len(x) == 1 else self._digits(x, count=len(x))
        axis = self._initializer("axis_1", np.array([1], dtype=np.int64))
        places = tuple(self._made("Unsqueeze", [one, axis], one.low, one.high) for one in x)
        flat = []
        for first in range(0, len(steps), _THRESHOLDS_AT_ONCE):
            part = slice(first, first + _THRESHOLDS_AT_ONCE)
            below = (operation.thresholds[:, part] - 1).T
            limits = below.reshape(*below.shape, *axes[1:])
            reached = self._above(places, self._constant_digits(limits, len(x)))
            count = steps[part].size
            rows = self._initializer(f"rows_of_{count}", np.array([0, count, -1], dtype=np.int64))
            row = self._made("Reshape", [reached, rows], 0, 1)
            step = self._constant(steps[part].reshape(1, count))
            flat.append(self._made("MatMul", [step, row], 0, int(steps[part].sum())))
        shape = self._initializer(
            f"shape_{'x'.join(map(str, node.shape))}", np.array([-1, *node.shape], dtype=np.int64)
        )
        total = self._sum(flat)
        levels = self._made("Reshape", [total, shape], total.low, total.high)
        if operation.levels[0]:
            levels = self._sum([levels, self._constant(int(operation.levels[0]))])
        return (levels,)

    def _window_sum(self, node: IntegerNode, operation: integer_op.WindowSum) -> list[Part]:
        places = math.prod(operation.kernel)
        source = self._source(node)
        sums = []
        for piece in self._pieces(self._read(node), places):
            ends = (piece.low * places, piece.high * places)
            if tuple(operation.kernel) == tuple(source.shape[1:]):
                axes = self._initializer("height_and_width", np.array([2, 3], dtype=np.int64))
                total = self._made("ReduceSum", [piece, axes], *ends, keepdims=1)
            else:
                channels = source.shape[0]
                ones = self._constant(np.ones((channels, 1, *operation.kernel), dtype=np.int64))
                attributes = {**attributes_of(operation), "group": channels}
                total = self._made("Conv", [piece, ones], *ends, **attributes)
            sums.append(replace(total, shift=piece.shift))
        return sums

    def _clamp(self, node: IntegerNode, operation: integer_op.Clamp) -> Parts:
        x = self._read(node)
        for operator, limit in (("Max", operation.low), ("Min", operation.high)):
            if limit is None:
                continue
            if len(x) == 1:
                low, high = (
                    (max if operator == "Max" else min)(end, limit) for end in (x[0].low, x[0].high)
                )
                x = (self._made(operator, [x[0], self._constant(limit)], low, high),)
                continue
            limits = self._constant_digits(limit, len(x))
            above = self._above(x, limits)
            x = (
                self._chosen(above, x, limits)
                if operator == "Max"
                else self._chosen(above, limits, x)
            )
        return x

    def _add(self, node: IntegerNode, _: op.Add) -> list[Part]:
        terms = [self.parts[name] for name in node.inputs]
        low, high = node.interval.low, node.interval.high
        if max(-low, high) < FLOAT32_EXACT and all(len(parts) == 1 for parts in terms):
            return [self._made("Add", [term[0] for term in terms], low, high)]
        return [part for parts in terms for part in parts]

    def _max_pool(self, node: IntegerNode, operation: op.MaxPool) -> Parts:
        x = self._read(node)
        if len(x) == 1:
            return (self._made("MaxPool", [x[0]], x[0].low, x[0].high, **attributes_of(operation)),)
        return self._wide_max_pool(x, node, operation)

    def _wide_max_pool(self, x: Parts, node: IntegerNode, operation: op.MaxPool) -> Parts:
        """Return the largest of the places of every window, compared two at a time."""
        if any(operation.padding):
            pads = np.array([0, 0, *operation.padding] * 2, dtype=np.int64)
            amounts = self._initializer(f"{self.place}.pads", pads)
            never = [0] * (len(x) - 1) + [-(1 << LAST)]
            padded = [
                self._made("Pad", [one, amounts, self._constant(low)], min(one.low, low), one.high)
                for one, low in zip(x, never, strict=True)
            ]
            x = tuple(replace(made, shift=one.shift) for one, made in zip(x, padded, strict=True))
        taps = [self._tap(x, node, operation, tap) for tap in np.ndindex(*operation.kernel)]
        largest = taps[0]
        for tap in taps[1:]:
            raised = (self._sum([largest[0], self._constant(-1)]), *largest[1:])
            largest = self._chosen(self._above(tap, raised), tap, largest)
        return largest

    def _tap(
        self, x: Parts, node: IntegerNode, operation: op.MaxPool, tap: tuple[int, ...]
    ) -> Parts:
        """Return one place of every window."""
        ends = [
            first + (size - 1) * stride + 1
            for first, size, stride in zip(tap, node.shape[1:], operation.stride, strict=True)
        ]
        values = {"starts": tap, "ends": ends, "axes": (2, 3), "steps": operation.stride}
        constants = [
            self._initializer(
                f"{self.place}.{name}_{tap[0]}_{tap[1]}", np.array(value, dtype=np.int64)
            )
            for name, value in values.items()
        ]
        return tuple(
            replace(self._made("Slice", [one, *constants], one.low, one.high), shift=one.shift)
            for one in x
        )

    def _rearranged(self, node: IntegerNode, operation: Any) -> list[Part]:
        """Return what only moves numbers, digit by digit."""
        inputs = [self.parts[name] for name in node.inputs]
        count = max(map(len, inputs))
        digits = [
            parts if len(parts) == count else self._digits(parts, count=count) for parts in inputs
        ]
        moved = []
        for same in zip(*digits, strict=True):
            self.made += 1
            tensor = f"{self.place}.step{self.made}"
            self._add_standard(tensor, operation, [one.tensor for one in same])
            low, high = min(one.low for one in same), max(one.high for one in same)
            moved.append(Part(tensor=tensor, low=low, high=high, shift=same[0].shift))
        return moved


def _channel_axes(node: IntegerNode) -> tuple[int, ...]:
    """Return the shape, without the batch, of one number a channel."""
    return (-1, *[1] * (len(node.shape) - 1))
