"""The graph of a traced network, node by node."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from apot_export.encoding._functions import Batch, function_operations, is_in_place_call, unknown
from apot_export.encoding._modules import is_in_place, module_operation
from apot_export.errors import CaptureError
from apot_export.network import (
    Flatten,
    MultiBitWeights,
    Node,
    Operation,
    Shape,
    SourceLayer,
    SourceNetwork,
)
from apot_export.original.tracing import place, source_line, trace, value_names

_ARITHMETIC = (
    operator.getitem,
    operator.add,
    operator.sub,
    operator.mul,
    operator.floordiv,
    operator.neg,
)
"""What forward passes do to sizes before they give them to a view."""


def capture(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    multi_bit: Mapping[str, MultiBitWeights] | None = None,
) -> SourceNetwork:
    """Capture a module in evaluation mode.

    Args:
        module: A network of the layers in `quantized_layers` and plain PyTorch ones.
        input_shape: One image: (channels, height, width).
        multi_bit: Weights that are sums of scaled sign vectors, by layer.

    Raises:
        CaptureError: The graph cannot be traced or holds an unknown operation.
    """
    try:
        return _captured(trace(module), input_shape, multi_bit)
    except CaptureError:
        # Once more, so that the error can say which line of the network it was.
        return _captured(trace(module, with_lines=True), input_shape, multi_bit)


def _captured(
    traced: fx.GraphModule,
    input_shape: tuple[int, int, int],
    multi_bit: Mapping[str, MultiBitWeights] | None,
) -> SourceNetwork:
    builder = _Builder(traced=traced, names=value_names(traced), input_shape=input_shape)
    for node in traced.graph.nodes:
        builder.add(node)
    for name, weights in (multi_bit or {}).items():
        builder.layers[name] = dataclasses.replace(builder.layers[name], quantizer=weights)
    return builder.network(builder.output)


@dataclass
class _Builder:
    """The intermediate representation of the nodes so far."""

    traced: fx.GraphModule
    names: Mapping[str, str]
    """Value name of every fx node."""
    input_shape: Shape
    input: str = ""
    output: str = ""
    nodes: list[Node] = field(default_factory=list)
    layers: dict[str, SourceLayer] = field(default_factory=dict)
    alias: dict[str, str] = field(default_factory=dict)
    """Value that each fx node passes on: its own, or that of a node before it."""
    sizes: dict[str, Any] = field(default_factory=dict)
    """Results of fx nodes that are no tensors: shapes, and numbers made of them."""
    memory: dict[str, str] = field(default_factory=dict)
    """Values that share memory with another: the first value that had it."""
    overwritten: set[str] = field(default_factory=set)
    """Values that an operation in place has replaced: what a reader gets is not defined."""
    shapes: dict[str, Shape] = field(default_factory=dict)
    """Shapes that were asked for so far, without the batch axis."""
    lines: dict[str, str] = field(default_factory=dict)
    """Line of the network's code that each value comes from."""

    def network(self, output: str) -> SourceNetwork:
        """Return the network up to a value."""
        try:
            return SourceNetwork(
                nodes=tuple(self.nodes),
                layers=self.layers,
                input=self.input,
                input_shape=self.input_shape,
                output=output,
            )
        except CaptureError as error:
            if error.where in self.lines:
                error.where = f"{error.where}, {self.lines[error.where]}"
            raise

    def add(self, node: fx.Node) -> None:
        """Add what an fx node does."""
        if node.op == "placeholder":
            if self.input:
                raise CaptureError("The network has more than one input.", where=str(node.name))
            self.input = self.alias[node.name] = self.names[node.name]
        elif node.op == "output":
            values = self._values(node)
            if len(values) != 1 or not isinstance(node.args[0], fx.Node):
                raise CaptureError(
                    "The network must return one tensor.",
                    where=values[-1] if values else "the forward pass",
                    expected="logits alone",
                    got=f"{len(values)} values" if len(values) != 1 else "a tensor in a container",
                    fix="in evaluation, return the logits without auxiliary results",
                )
            (self.output,) = values
        elif node.op == "call_module":
            self._add_module(node)
        elif node.op in ("call_function", "call_method"):
            if not self._add_size(node):
                self._add_function(node)
        else:
            raise unknown(node)

    def _add_module(self, node: fx.Node) -> None:
        path = str(node.target)
        module = self.traced.get_submodule(path)
        values = self._values(node)
        if not values:
            raise unknown(node)
        try:
            operation = module_operation(path, module, self._image(values), self.layers)
        except CaptureError as error:
            line = source_line(node)
            error.where = f"{error.where}, {line}" if line else error.where
            raise
        operations = [] if operation is None else [operation]
        self._append(node, values, operations, in_place=is_in_place(module))

    def _add_function(self, node: fx.Node) -> None:
        values = self._values(node)
        if not values:
            raise unknown(node)
        arguments, options = self._known(node.args), self._known(node.kwargs)
        operations = function_operations(node, arguments, options, self._image(values))
        self._append(node, values, operations, in_place=is_in_place_call(node))

    def _append(
        self, node: fx.Node, values: list[str], operations: list[Operation], *, in_place: bool
    ) -> None:
        name = self.names[node.name]
        if not operations:
            self.alias[node.name] = values[0]
            return
        for number, operation in enumerate(operations, start=1):
            last = number == len(operations)
            step = name if last else f"{name}.step{number}"
            self.nodes.append(Node(name=step, inputs=tuple(values), operation=operation))
            if line := source_line(node):
                self.lines[step] = line
            if in_place or isinstance(operation, Flatten):
                self.memory[step] = self._owner(values[0])
            if in_place:
                sharing = [v for v in self.memory if self._owner(v) == self._owner(step)]
                self.overwritten.update({*sharing, self._owner(step)} - {step})
            values = [step]
        self.alias[node.name] = name

    def _owner(self, value: str) -> str:
        return self.memory.get(value, value)

    def _shape(self, value: str) -> Shape:
        if value not in self.shapes:
            self.shapes |= self.network(value).shapes
        return self.shapes[value]

    def _image(self, values: list[str]) -> Callable[[], Shape]:
        """Return what tells the shape of the first value, which few operations need to know."""
        return lambda: self._shape(values[0])

    def _values(self, node: fx.Node) -> list[str]:
        """Return the names of the values that a node reads."""
        tensors = [source for source in node.all_input_nodes if source.name not in self.sizes]
        positional: list[fx.Node] = []
        fx.node.map_arg(node.args, positional.append)
        if any(tensor not in positional for tensor in tensors):
            raise CaptureError(
                "A tensor is passed by keyword.", where=place(node), fix="pass it by position"
            )
        values = [self.alias[tensor.name] for tensor in positional if tensor in tensors]
        for value in self.overwritten.intersection(values):
            raise CaptureError(
                "A value is read again after an operation has overwritten it in place.",
                where=place(node),
                expected="operations that are not in place where their input is still needed",
                got=value,
            )
        return values

    # --- sizes ------------------------------------------------------------------------------------

    def _known(self, arguments: Any) -> Any:
        """Put what is known of sizes in the place of their nodes."""
        return fx.node.map_arg(arguments, lambda node: self.sizes.get(node.name, node))

    def _add_size(self, node: fx.Node) -> bool:
        """Compute a node that is a size of a tensor, or a number made of sizes."""
        source = node.args[0] if node.args else None
        is_tensor = isinstance(source, fx.Node) and source.name not in self.sizes
        if is_tensor and isinstance(source, fx.Node):
            is_shape = node.op == "call_function" and node.target is getattr
            if not (is_shape and node.args[1] == "shape") and node.target != "size":
                return False
            shape = (Batch.SIZE, *self._shape(self.alias[source.name]))
            axes = self._known(node.args[1:] if node.target == "size" else ())
            axes += tuple(node.kwargs.values())
            self.sizes[node.name] = shape[axes[0]] if axes else shape
            return True
        if node.target not in _ARITHMETIC or any(
            source.name not in self.sizes for source in node.all_input_nodes
        ):
            return False
        try:
            function: Callable[..., Any] = _ARITHMETIC[_ARITHMETIC.index(node.target)]
            result = function(*self._known(node.args))
        except (TypeError, IndexError, ZeroDivisionError) as error:
            raise unknown(node) from error
        self.sizes[node.name] = result
        return True
