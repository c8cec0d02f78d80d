"""Which nodes become one step: a producer, and what may follow its sums."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from apot_export.errors import KernelError
from apot_export.network import CodedNetwork, Node
from apot_export.network import operations as op
from apot_export.runtimes.native._structs import PROJECTIONS
from apot_export.runtimes.native._weights import largest_byte

LARGEST_LEVEL = 255
"""Levels of activations are bytes."""
_SMALL_WEIGHTS = 1 << 17
"""Bytes of weights that a convolution may read again for every row that a pool wants."""


@dataclass(kw_only=True, eq=False)
class Finish:
    """What follows the sums of a step, in this order."""

    value: str
    """Name of the last value that it computes."""
    affine: op.ScaleBias | None = None
    addend: str | None = None
    bounds: tuple[float, float] | None = None
    stored: bool = False
    """Whether another step, or the caller, reads the value's floats."""
    levels: list[tuple[str, str]] = field(default_factory=list)
    """Names of values of levels, and of the layers whose quantizers make them."""

    def written(self) -> tuple[str, ...]:
        """Return the names of the values that it writes into the arena."""
        return (*(name for name, _ in self.levels), *[self.value] * self.stored)


@dataclass(kw_only=True, eq=False)
class Fused:
    """Nodes that become one step."""

    node: Node
    """The producer; a `ScaleBias`, `Add`, `Relu`, `Clip` or quantizer only finishes."""
    source: str
    """The value that is read first."""
    finish: Finish
    pool: Node | None = None
    """A pool that takes the finished rows while they are in the cache."""
    after: Finish | None = None
    """What follows the pool."""
    spread: str | None = None
    """Name of the source's transform, for a Winograd convolution."""

    @property
    def last(self) -> Finish:
        """What its results come from."""
        return self.after or self.finish


def fuse(network: CodedNetwork) -> tuple[list[Fused], str]:
    """Group the nodes of a network into steps, in an order of computation.

    Returns:
        The steps, and the name of the network's output among their values.

    Raises:
        KernelError: An operation or a layer has no kernel.
    """
    _require_kernels(network)
    _require_bytes(network)
    nodes, output = _without_trivial_flattening(network)
    nodes = _that_are_read(nodes, output)
    return _Fuser(network, nodes, output).steps(), output


def _without_trivial_flattening(network: CodedNetwork) -> tuple[list[Node], str]:
    """Drop the nodes that change no byte: a flattened pixel."""
    names: dict[str, str] = {}
    nodes = []
    for node in network.nodes:
        inputs = tuple(names.get(name, name) for name in node.inputs)
        if isinstance(node.operation, op.Flatten) and not any(
            extent > 1 for extent in network.shapes[node.inputs[0]][1:]
        ):
            names[node.name] = inputs[0]
        else:
            nodes.append(dataclasses.replace(node, inputs=inputs))
    return nodes, names.get(network.output, network.output)


def _that_are_read(nodes: Sequence[Node], output: str) -> list[Node]:
    """Return the nodes on which the output depends."""
    read, kept = {output}, []
    for node in reversed(nodes):
        if node.name in read:
            read.update(node.inputs)
            kept.append(node)
    return kept[::-1]


class _Fuser:
    def __init__(self, network: CodedNetwork, nodes: Sequence[Node], output: str) -> None:
        self._network = network
        self._nodes = nodes
        self._output = output
        self._users: dict[str, list[Node]] = {}
        for node in nodes:
            for name in dict.fromkeys(node.inputs):
                self._users.setdefault(name, []).append(node)
        self._absorbed: set[str] = set()
        self._computed = {network.input}
        self._concatenated = {node.name for node in nodes if isinstance(node.operation, op.Concat)}

    def steps(self) -> list[Fused]:
        # Each step may absorb nodes after it, which are then passed over.
        return [self._fused(node) for node in self._nodes if node.name not in self._absorbed]

    def _fused(self, node: Node) -> Fused:
        operation, source = node.operation, node.inputs[0]
        if isinstance(operation, op.QuantizeActivation):
            finish = Finish(value=source, levels=[(node.name, operation.layer)])
            self._computed.add(node.name)
            return Fused(node=node, source=source, finish=finish)
        finish = Finish(value=node.name)
        # What only finishes starts with the value before it, and absorbs itself.
        _absorb(finish, node, source)
        if not isinstance(operation, op.Concat):
            self._follow(finish)
        fused = Fused(node=node, source=source, finish=finish)
        fused.pool = self._pool_of(fused)
        if fused.pool is not None:
            self._absorbed.add(fused.pool.name)
            fused.after = Finish(value=fused.pool.name)
            self._follow(fused.after)
            _finish_after(fused)
        self._settle(fused.last)
        return fused

    def _follow(self, finish: Finish) -> None:
        """Absorb the nodes after a value as long as each is the only reader of the one before."""
        while finish.value != self._output:
            users = self._users.get(finish.value, [])
            if len(users) != 1 or not self._fits(finish, users[0]):
                return
            _absorb(finish, users[0], finish.value)
            self._absorbed.add(users[0].name)

    def _fits(self, finish: Finish, user: Node) -> bool:
        operation = user.operation
        if isinstance(operation, op.ScaleBias):
            return finish.affine is None and finish.addend is None and finish.bounds is None
        if isinstance(operation, op.Add):
            others = [name for name in user.inputs if name != finish.value]
            free = finish.addend is None and finish.bounds is None
            return free and len(others) == 1 and others[0] in self._computed
        return isinstance(operation, (op.Relu, op.Clip)) and finish.bounds is None

    def _pool_of(self, fused: Fused) -> Node | None:
        operation, finish = fused.node.operation, fused.finish
        users = self._users.get(finish.value, [])
        if (
            not isinstance(operation, op.Convolution)
            or finish.addend is not None
            or finish.value == self._output
            or len(users) != 1
            or is_depthwise(self._network, operation)
        ):
            return None
        shape = self._network.layers[operation.layer].shape
        small = int(np.prod(shape)) * 4 <= _SMALL_WEIGHTS
        return users[0] if small and isinstance(users[0].operation, op.MaxPool) else None

    def _settle(self, finish: Finish) -> None:
        """Record how a computed value is stored, as floats, levels or both, by who reads it."""
        users = self._users.get(finish.value, [])
        floats = [user for user in users if not isinstance(user.operation, op.QuantizeActivation)]
        quantizers = [user for user in users if isinstance(user.operation, op.QuantizeActivation)]
        # Concatenated channels have no finish; quantizers beyond those that a step can feed become
        # separate steps.
        at_once = quantizers[: 0 if finish.value in self._concatenated else PROJECTIONS]
        finish.stored = finish.value == self._output or bool(floats)
        finish.stored |= len(at_once) < len(quantizers)
        for user in at_once:
            assert isinstance(user.operation, op.QuantizeActivation)
            finish.levels.append((user.name, user.operation.layer))
            self._absorbed.add(user.name)
            self._computed.add(user.name)
        self._computed.add(finish.value)


def _finish_after(fused: Fused) -> None:
    """Let what only grows with a sum follow the pool, which has fewer numbers."""
    first, after = fused.finish, fused.after
    assert after is not None
    if after.affine is not None or after.addend is not None or after.bounds is not None:
        return
    if first.affine is not None and not bool(np.all(np.asarray(first.affine.scale) > 0)):
        return
    after.affine, after.bounds = first.affine, first.bounds
    first.affine = first.bounds = None


def _absorb(finish: Finish, node: Node, value: str) -> None:
    operation = node.operation
    if isinstance(operation, op.ScaleBias):
        finish.affine = operation
    elif isinstance(operation, op.Add):
        others = [name for name in node.inputs if name != value]
        finish.addend = others[0] if others else value
    elif isinstance(operation, op.Relu):
        finish.bounds = (0.0, float("inf"))
    elif isinstance(operation, op.Clip):
        finish.bounds = (operation.minimum, operation.maximum)
    finish.value = node.name


def is_depthwise(network: CodedNetwork, operation: op.Convolution) -> bool:
    """Whether the convolution is depthwise: one group, and one input channel, per output."""
    outputs, inputs = network.layers[operation.layer].shape[:2]
    return operation.groups == outputs > 1 and inputs == 1


def _require_kernels(network: CodedNetwork) -> None:
    unknown = [node.name for node in network.nodes if not network.is_elementary(node)]
    if unknown or network.further_outputs:
        raise KernelError(
            "The kernels do not know an operation of the network."
            if unknown
            else "The kernels compute networks of one output.",
            where=", ".join(unknown or network.further_outputs),
            fix="run the ONNX model",
        )


def _require_bytes(network: CodedNetwork) -> None:
    for layer in network.layers.values():
        largest = 0 if layer.activation is None else largest_byte(layer.activation)
        if largest > LARGEST_LEVEL:
            raise KernelError(
                "The kernels hold levels of activations in bytes.",
                where=layer.name,
                expected=f"levels up to {LARGEST_LEVEL} above the lowest",
                got=f"a level of {largest}",
                fix="run the ONNX model",
            )
