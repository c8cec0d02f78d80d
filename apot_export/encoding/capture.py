"""The graph of a traced network, node by node."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx, nn

from apot_export.encoding._functions import PRIMITIVES, function_operations, unknown
from apot_export.encoding._modules import module_operation
from apot_export.errors import CaptureError
from apot_export.network import (
    MultiBitWeights,
    Node,
    PowerOfTwoWeights,
    Shape,
    SourceLayer,
    SourceNetwork,
)
from apot_export.network import operations as op
from apot_export.original.primitives import tensors_of
from apot_export.original.tracing import place, source_line, trace, value_names


def capture(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    quantizers: Mapping[str, MultiBitWeights | PowerOfTwoWeights] | None = None,
) -> SourceNetwork:
    """Capture a module in evaluation mode.

    Args:
        module: A network of the layers in `quantized_layers` and plain PyTorch ones.
        input_shape: One image: (channels, height, width).
        quantizers: How weights are stored that the module holds as floats, by layer.

    Raises:
        CaptureError: The graph cannot be traced or holds an unknown operation.
    """
    try:
        return _captured(trace(module, input_shape), input_shape, quantizers or {})
    except CaptureError:
        # Once more, so that the error can say which line of the network it was.
        return _captured(trace(module, input_shape, with_lines=True), input_shape, quantizers or {})


def _captured(
    traced: fx.GraphModule,
    input_shape: tuple[int, int, int],
    quantizers: Mapping[str, MultiBitWeights | PowerOfTwoWeights],
) -> SourceNetwork:
    builder = _Builder(traced=traced, names=value_names(traced), input_shape=input_shape)
    for node in traced.graph.nodes:
        builder.add(node)
    for name, quantizer in quantizers.items():
        builder.layers[name] = dataclasses.replace(builder.layers[name], quantizer=quantizer)
    return builder.network(*builder.outputs)


@dataclass
class _Builder:
    """The intermediate representation of the nodes so far."""

    traced: fx.GraphModule
    names: Mapping[str, str]
    """Value name of every fx node."""
    input_shape: Shape
    input: str = ""
    outputs: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    layers: dict[str, SourceLayer] = field(default_factory=dict)
    alias: dict[str, str] = field(default_factory=dict)
    """Value that each fx node passes on: its own, or that of a node before it."""
    memory: dict[str, str] = field(default_factory=dict)
    """Values that share memory with another: the first value that had it."""
    overwritten: set[str] = field(default_factory=set)
    """Values that an operation in place has replaced: what a reader gets is not defined."""
    lines: dict[str, str] = field(default_factory=dict)
    """Line of the network's code that each value comes from."""

    def network(self, output: str, *further: str) -> SourceNetwork:
        """Return the network up to a value."""
        try:
            return SourceNetwork(
                nodes=tuple(self.nodes),
                layers=self.layers,
                input=self.input,
                input_shape=self.input_shape,
                output=output,
                further_outputs=further,
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
            self._add_outputs(node)
        elif node.op == "get_attr":
            return  # a constant, which the operations that read it look up
        elif node.op not in ("call_module", "call_function", "call_method"):
            raise unknown(node)
        elif "shape" in node.meta or node.op == "call_module" or node.target in PRIMITIVES:
            self._add_operations(node)
            if "shape" not in node.meta:
                self.network(self.alias[node.name])  # tells what of the shapes does not fit
                raise unknown(node)
        elif "values" not in node.meta or tensors_of(node.meta["values"]):
            raise unknown(node)

    def _add_outputs(self, node: fx.Node) -> None:
        values = [value for value in dict.fromkeys(self._values(node)) if value != self.input]
        if not values:
            raise CaptureError(
                "The network must return a tensor that it computed.",
                where="the forward pass",
                got=node.format_node() or "nothing",
            )
        self.outputs = values

    def _add_operations(self, node: fx.Node) -> None:
        values = self._values(node)
        if not values:
            raise unknown(node)
        if node.op == "call_module":
            path = str(node.target)
            try:
                operation = module_operation(path, self.traced.get_submodule(path), self.layers)
            except CaptureError as error:
                line = source_line(node)
                error.where = f"{error.where}, {line}" if line else error.where
                raise
            self._append(node, values, (operation,))
        else:
            self._append(node, values, function_operations(node, self.traced))

    def _append(
        self, node: fx.Node, values: list[str], operations: tuple[op.Operation, ...]
    ) -> None:
        in_place = node.meta.get("in_place", False)
        names = [f"{self.names[node.name]}.step{number}" for number in range(1, len(operations))]
        for name, operation in zip([*names, self.names[node.name]], operations, strict=False):
            self.nodes.append(Node(name=name, inputs=tuple(values), operation=operation))
            if line := source_line(node):
                self.lines[name] = line
            if in_place or isinstance(operation, op.Flatten):
                self.memory[name] = self._owner(values[0])
            if in_place:
                sharing = [v for v in self.memory if self._owner(v) == self._owner(name)]
                self.overwritten.update({*sharing, self._owner(name)} - {name})
            values = [name]
        self.alias[node.name] = values[0]

    def _owner(self, value: str) -> str:
        return self.memory.get(value, value)

    def _values(self, node: fx.Node) -> list[str]:
        """Return the names of the values that a node reads."""
        tensors = [source for source in node.all_input_nodes if source.name in self.alias]
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
