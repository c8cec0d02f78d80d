"""The C program of an integer network: its steps with kinds and places of all values."""

from __future__ import annotations

import math
from dataclasses import dataclass

from apot_export.devices.c._layers import Geometry, geometry_of
from apot_export.devices.c._steps import Step, Steps
from apot_export.devices.c._weights import Codes, SignVectors, grouped_weights
from apot_export.integer import network as integer_op
from apot_export.integer.network import IntegerNetwork, IntegerNode, Integers, Interval
from apot_export.network import CodedNetwork
from apot_export.network import operations as op
from apot_export.network.memory_plan import Use, plan, rounded_up
from apot_export.network.planes import Shape

_SMALL_TAPS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A type of numbers in memory."""

    name: str
    """As in apot_kernels.h."""
    type: str
    bytes: int
    low: int
    high: int


def _kind(name: str, bits: int, *, signed: bool) -> Kind:
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    prefix = "int" if signed else "uint"
    return Kind(name=name, type=f"{prefix}{bits}_t", bytes=bits // 8, low=low, high=high)


KINDS = (
    _kind("APOT_U8", 8, signed=False),
    _kind("APOT_I8", 8, signed=True),
    _kind("APOT_U16", 16, signed=False),
    _kind("APOT_I16", 16, signed=True),
    _kind("APOT_I32", 32, signed=True),
    _kind("APOT_I64", 64, signed=True),
)


def kind_of(interval: Interval) -> Kind:
    """Return the smallest kind that holds a proven range."""
    return next(kind for kind in KINDS if kind.low <= interval.low and interval.high <= kind.high)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """What a convolution or product needs beside its step."""

    node: IntegerNode
    weights: Codes | SignVectors
    geometry: Geometry
    wide: bool
    starts: Integers
    """Where the taps of each group of codes begin: see apot_kernels.h."""
    taps: int
    """How many there is room for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """Everything that the C source is written from."""

    network: IntegerNetwork
    coded: CodedNetwork
    steps: tuple[Step, ...]
    sums: dict[str, Sums]
    """Of convolutions and products, by their step's name."""
    kinds: dict[str, Kind]
    shapes: dict[str, Shape]
    offsets: dict[str, int]
    """Of values and, by scratch_name, of scratch memory, in the workspace."""
    workspace: int
    """Bytes."""
    output: str
    """The value that holds the logits."""
    tap_bytes: int

    @property
    def has_sign_vectors(self) -> bool:
        """Return whether a layer has sign vectors."""
        return any(isinstance(one.weights, SignVectors) for one in self.sums.values())


def scratch_name(step: Step) -> str:
    """Return the name of a step's scratch memory among the offsets."""
    return f"{step.name} (scratch)"


def program_of(network: IntegerNetwork, coded: CodedNetwork) -> Program:
    """Derive steps and memory.

    Raises:
        IntegerError: A layer or operation has no kernel in C.
    """
    derived = Steps(network=network)
    steps = tuple(derived.run())
    nodes = dict(derived.nodes)
    shapes = {network.input: network.input_shape, **{n: node.shape for n, node in nodes.items()}}
    kinds = {name: kind_of(node.interval) for name, node in nodes.items()}
    pixels = Interval(low=0, high=255)
    image = Interval(low=-(1 << 31), high=0) if network.pixels is None else pixels
    kinds[network.input] = kind_of(image)
    nodes[network.input] = IntegerNode(
        name=network.input,
        inputs=(),
        operation=integer_op.Clamp(low=None, high=None),
        shape=network.input_shape,
        interval=image,
    )
    sums = {step.name: _sums(step, nodes, network, coded) for step in steps if _weighted(step)}
    chunks = [one.geometry.chunk * one.geometry.channel_bytes for one in sums.values()]
    tap_bytes = 2 if max(chunks, default=0) <= _SMALL_TAPS else 4
    sizes = {name: math.prod(shapes[name]) * kinds[name].bytes for name in kinds}
    for step in steps:
        if step.name in sums:
            one = sums[step.name]
            sizes[scratch_name(step)] = _scratch_places(one, tap_bytes)[-1]
    uses = [_use(step, network.input, scratch=step.name in sums) for step in steps]
    output = derived.root(network.output)
    offsets, workspace = plan(uses, sizes, [output])
    return Program(
        network=network,
        coded=coded,
        steps=steps,
        sums=sums,
        kinds=kinds,
        shapes=shapes,
        offsets=offsets,
        workspace=workspace,
        output=output,
        tap_bytes=tap_bytes,
    )


def scratch_places(program: Program, step: Step) -> tuple[int, int, int]:
    """Return where a step's copied inputs, sums and taps lie in the workspace."""
    first = program.offsets[scratch_name(step)]
    packed, sums, taps, _ = _scratch_places(program.sums[step.name], program.tap_bytes)
    return first + packed, first + sums, first + taps


def _scratch_places(sums: Sums, tap_bytes: int) -> tuple[int, int, int, int]:
    packed = rounded_up(sums.geometry.packed_bytes)
    taps = packed + rounded_up(sums.geometry.sums_bytes)
    return 0, packed, taps, taps + rounded_up(sums.taps * tap_bytes)


def _weighted(step: Step) -> bool:
    return isinstance(step.operation, (op.Convolution, op.Linear))


def _sums(
    step: Step, nodes: dict[str, IntegerNode], network: IntegerNetwork, coded: CodedNetwork
) -> Sums:
    operation = step.operation
    assert isinstance(operation, (op.Convolution, op.Linear))
    node, source = nodes[step.name], nodes[step.source]
    layer = network.layers[operation.layer]
    weights = grouped_weights(coded.layers[operation.layer])
    limit = 1 << 31
    wide = (
        any(post.wide for post in step.posts)
        or kind_of(source.interval).bytes == 8  # noqa: PLR2004 - int64
        or not -limit <= node.interval.low <= node.interval.high < limit
    )
    geometry = geometry_of(layer, weights, operation, source, node, wide=wide)
    starts, taps = weights.starts(geometry.chunk)
    return Sums(node=node, weights=weights, geometry=geometry, wide=wide, starts=starts, taps=taps)


def _use(step: Step, image: str, *, scratch: bool) -> Use:
    reads = tuple(name for name in step.reads if name != image)
    others = [post.other for post in step.posts if post.other is not None]
    over = tuple(name for name in others if others.count(name) == 1 and name != step.source)
    if not scratch and step.operation is None and len(step.posts) == 1 and not step.before:
        over = (*reads,)  # number by number
    writes = (*step.writes, *([scratch_name(step)] if scratch else []))
    return Use(reads=reads, writes=writes, over=over)
