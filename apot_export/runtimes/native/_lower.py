"""Lowering: a coded network to a flat program of fused steps over one arena."""

from __future__ import annotations

import ctypes
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apot_export.errors import KernelError
from apot_export.network import ActivationQuantizer, CodedNetwork, Node
from apot_export.network import operations as op
from apot_export.runtimes.native._arena import Buffer, Constants, allocate, extents
from apot_export.runtimes.native._fuse import Finish, Fused, fuse, is_depthwise
from apot_export.runtimes.native._structs import (
    LANES,
    LINE,
    LONGEST_RUN,
    MAGIC,
    VERSION,
    WIDEST_BLOCK,
    Finishing,
    Frame,
    Header,
    Projection,
    Step,
    StepKind,
    TableKind,
    View,
)
from apot_export.runtimes.native._weights import (
    POSITIONS,
    Winograd,
    corrections,
    pack,
    pack_depthwise,
    padded,
    winograd_weights,
)

_SHUFFLED_ENTRIES = 256
_FLOAT_BYTES = 4
_OFFSET_LIMIT = 1 << 31
_OF_WHOLE_VECTORS = ("avx_vnni", "avx2", "neon")
"""Kernels that Winograd's algorithm makes slower where a pixel has few channels."""
_VECTOR_LEVELS = 64


@dataclass(frozen=True, kw_only=True)
class Part:
    """The nodes of the network that a step computes."""

    name: str
    """The node that it starts with, which is also the name of its sums; or its preparation."""
    written: tuple[str, ...] = ()
    """Values that are complete in the arena after it, its sums excepted."""
    sums: tuple[int, int, int] | None = None
    """(channels, height, width) of the sums of a step with weights, before what follows them."""


@dataclass(kw_only=True, eq=False)
class Program:
    """Steps, and what they need."""

    steps: ctypes.Array[Step]
    parts: tuple[Part, ...]
    """What each step computes."""
    buffers: dict[str, Buffer]
    output: Buffer
    constants: Constants
    """What the addresses in the steps point to."""
    header: Header
    """Sizes; `plan` completes it."""

    def plan(self) -> bytes:
        """Return the plan: a header, constants and steps, as `c/apot_steps.h` says."""
        header = Header.from_buffer_copy(self.header)
        header.magic, header.version, header.step_bytes = MAGIC, VERSION, ctypes.sizeof(Step)
        header.steps_at, header.steps = self.constants.end, len(self.steps)
        header.size = header.steps_at + ctypes.sizeof(self.steps)
        behind = Header.checksum.offset + Header.checksum.size
        rest = bytes(header)[behind:] + self.constants.content() + bytes(self.steps)
        header.checksum = zlib.crc32(rest)
        return bytes(header)[:behind] + rest


def lower(network: CodedNetwork, kernels: str | None = None) -> Program:
    """Lower a network, for any kernels or for those of a name.

    Raises:
        KernelError: An operation or a layer has no kernel.
    """
    return _Lowering(network, kernels).program()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What libapot runs a network by."""

    content: bytes
    workspace_bytes: int
    """What a run takes beside the plan, for each thread."""


def plan_network(network: CodedNetwork) -> Plan:
    """Plan a network for libapot, on any processor.

    Raises:
        KernelError: An operation or a layer has no kernel.
    """
    program = lower(network)
    size = program.header.arena_bytes + program.header.scratch_bytes
    return Plan(content=program.plan(), workspace_bytes=size)


class _Lowering:
    def __init__(self, network: CodedNetwork, kernels: str | None) -> None:
        self._network = network
        self._transformed = _VECTOR_LEVELS if kernels in _OF_WHOLE_VECTORS else LANES
        self._fused, output = fuse(network)
        self._winograd = self._winograds()
        self._shapes = dict(network.shapes)
        if any(extent > 1 for extent in extents(self._shapes[output])[1:]):
            # The caller's order is channels, rows, columns.
            flat = Node(name=f"{output} (flat)", inputs=(output,), operation=op.Flatten())
            self._shapes[flat.name] = (int(np.prod(self._shapes[output])),)
            finish = Finish(value=flat.name, stored=True)
            self._fused.append(Fused(node=flat, source=output, finish=finish))
            output = flat.name
        self._buffers, self._arena = allocate(self._fused, self._shapes, network.input, output)
        self._output = self._buffers[output]
        for node in network.nodes:
            if isinstance(node.operation, op.QuantizeActivation) and node.name in self._buffers:
                quantizer = network.input_quantizer(node.operation.layer)
                self._buffers[node.name].zero = -quantizer.lowest_level
        self._constants = Constants(ctypes.sizeof(Header))
        self._scratch = 0

    def _winograds(self) -> dict[str, Winograd]:
        """Return the transformed weights of the nodes that have them, and name their inputs."""
        found = {}
        for fused in self._fused:
            operation = fused.node.operation
            if not isinstance(operation, op.Convolution) or fused.pool is not None:
                continue
            layer = self._network.layers[operation.layer]
            weights = winograd_weights(operation, layer, self._transformed)
            if weights is not None:
                found[fused.node.name] = weights
                fused.spread = f"{fused.node.name} (spread)"
        return found

    def program(self) -> Program:
        steps, parts = [self._load()], [Part(name=self._network.input)]
        for fused in self._fused:
            lowered = self._lowered(fused)
            steps += lowered
            first = Part(name=fused.spread or fused.node.name)
            parts += [first] * (len(lowered) - 1)
            parts.append(self._part(fused))
        return Program(
            steps=(Step * len(steps))(*steps),
            parts=tuple(parts),
            buffers=self._buffers,
            output=self._output,
            constants=self._constants,
            header=self._header(),
        )

    def _header(self) -> Header:
        channels, height, width = extents(self._network.input_shape)
        return Header(
            arena_bytes=self._arena,
            scratch_bytes=-(-self._scratch // LINE) * LINE,
            channels=channels,
            height=height,
            width=width,
            output_at=self._output.view().at,
            outputs=self._output.channels,
        )

    def _part(self, fused: Fused) -> Part:
        name, written = fused.node.name, fused.last.written()
        if not isinstance(fused.node.operation, (op.Convolution, op.Linear)):
            return Part(name=name, written=written)
        # The sums of a node without anything after them are known by that name already.
        others = tuple(value for value in written if value != name)
        return Part(name=name, written=others, sums=extents(self._shapes[name]))

    # --- what a step does ---------------------------------------------------------------------

    def _load(self) -> Step:
        image = self._buffers[self._network.input]
        step = Step(kind=StepKind.LOAD, channels=image.channels)
        step.height, step.width = image.height, image.width
        step.planes = image.plane if image.planes else 0
        step.finish = Finishing(stored=1, to=image.view(), border=image.frame())
        return step

    def _lowered(self, fused: Fused) -> list[Step]:
        operation = fused.node.operation
        if isinstance(operation, op.Concat):
            return self._placed_beside(fused)
        step = Step()
        shape = fused.node.name if fused.finish.value != fused.source else fused.source
        step.channels, step.height, step.width = extents(self._shapes[shape])
        if isinstance(operation, (op.Convolution, op.Linear)):
            self._convolve(step, fused, operation)
        else:
            source = self._buffers[fused.source]
            step.input_height, step.input_width = source.height, source.width
            step.from_ = source.view()
            step.kind = self._pool(step, operation)
            self._needs_scratch(step.width * padded(step.channels) * _FLOAT_BYTES)
        step.finish = self._finishing(fused.finish)
        if fused.spread is not None:
            return [self._spread(fused), step]
        if fused.pool is not None and fused.after is not None:
            self._pool_after(step, fused.pool, fused.after)
        return [step]

    def _pool(self, step: Step, operation: object) -> StepKind:
        if isinstance(operation, op.MaxPool):
            self._pool_windows(step, operation)
            return StepKind.MAXIMUM
        if isinstance(operation, (op.AveragePool, op.GlobalAveragePool)):
            step.kernel_y, step.kernel_x = step.input_height, step.input_width
            step.stride_y = step.stride_x = 1
            if isinstance(operation, op.AveragePool):
                step.kernel_y, step.kernel_x = operation.kernel
                step.stride_y, step.stride_x = operation.stride
            return StepKind.MEAN
        if isinstance(operation, op.Upsample):
            step.kernel_y, step.kernel_x = operation.scale
            return StepKind.REPEAT
        return StepKind.UNROLL if isinstance(operation, op.Flatten) else StepKind.APPLY

    def _pool_windows(self, step: Step, pool: op.MaxPool) -> None:
        step.pool_height, step.pool_width = step.height, step.width
        step.pool_kernel_y, step.pool_kernel_x = pool.kernel
        step.pool_stride_y, step.pool_stride_x = pool.stride
        step.pool_pad_y, step.pool_pad_x = pool.padding

    def _pool_after(self, step: Step, node: Node, after: Finish) -> None:
        pool, pixel = node.operation, padded(step.channels) * _FLOAT_BYTES
        assert isinstance(pool, op.MaxPool)
        self._pool_windows(step, pool)
        _, step.pool_height, step.pool_width = extents(self._shapes[node.name])
        step.pooled, step.finish.stored = 1, 1
        step.finish.to = View(0, step.width * pixel, pixel)
        step.ring_bytes = step.width * pixel * pool.kernel[0]
        step.after = self._finishing(after)
        self._needs_scratch(step.ring_bytes + step.pool_width * pixel)

    def _placed_beside(self, fused: Fused) -> list[Step]:
        steps: list[Step] = []
        channel, whole = 0, self._buffers[fused.node.name]
        for name in fused.node.inputs:
            part = self._buffers[name]
            step = Step(kind=StepKind.PLACE, channels=part.channels)
            step.height, step.width, step.from_ = part.height, part.width, part.view()
            to = whole.view(channel=channel)
            frame = whole.frame() if not steps else Frame()
            step.finish = Finishing(stored=1, to=to, border=frame)
            steps.append(step)
            channel += part.channels
        return steps

    def _convolve(self, step: Step, fused: Fused, operation: op.Convolution | op.Linear) -> None:
        layer = self._network.layers[operation.layer]
        if isinstance(operation, op.Linear):
            operation = op.Convolution(layer=operation.layer)
        source = self._buffers[fused.source]
        kernel: op.Pair = (1, 1) if len(layer.shape) == 2 else (layer.shape[2], layer.shape[3])  # noqa: PLR2004 - linear
        step.integers = layer.activation is not None
        correction = corrections(layer)
        if correction is not None:
            step.corrections = self._constants.address(correction)
        step.from_ = source.view(operation.padding)
        step.stride_y, step.stride_x = operation.stride
        step.rows, step.columns = step.height, step.width
        step.run = _best_run(step.width)
        if fused.spread is not None:
            planes = self._buffers[fused.spread]
            self._convolve_planes(step, planes, source.channels, self._winograd[fused.node.name])
            return
        rows = np.arange(kernel[0]) * operation.dilation[0] * source.row
        columns = np.arange(kernel[1]) * operation.dilation[1] * source.pixel
        windows = (rows[:, None] + columns).ravel()
        if is_depthwise(self._network, operation):
            step.kind = StepKind.DEPTHWISE
            self._read_at(step, windows)
            step.weights = self._constants.address(pack_depthwise(layer))
            self._needs_scratch(step.width * padded(step.channels) * _FLOAT_BYTES)
            return
        packed = pack(layer, operation.groups)
        between = source.plane if source.planes else _FLOAT_BYTES
        taps = np.arange(0, packed.group_inputs, 4 if step.integers else 1)
        offsets = (windows[:, None] + taps * (1 if step.integers else between)).ravel()
        if offsets.max() >= _OFFSET_LIMIT:
            raise KernelError("An image is larger than 2 GiB.", where=fused.source)
        lanes = padded(step.channels) // LANES // packed.groups
        step.kind, step.narrow_run = StepKind.CONVOLVE, packed.narrow_run
        self._read_at(step, offsets)
        step.weights = self._constants.address(packed.weights)
        if packed.high is not None:
            step.high_weights = self._constants.address(packed.high)
        step.group_blocks = -(-lanes // WIDEST_BLOCK)
        step.blocks = step.group_blocks * packed.groups
        item = 1 if step.integers else _FLOAT_BYTES
        step.group_bytes = packed.group_inputs * item if packed.groups > 1 else 0

    def _read_at(self, step: Step, offsets: NDArray[np.int64]) -> None:
        """Let a step read at these offsets, in bytes, from each of its pixels."""
        step.offsets, step.taps = self._constants.address(offsets.astype(np.int32)), len(offsets)

    def _spread(self, fused: Fused) -> Step:
        source, to = self._buffers[fused.source], self._buffers[fused.spread or ""]
        step = Step(kind=StepKind.SPREAD, channels=source.channels)
        step.height, step.width = to.height, to.width
        step.rows, step.columns = -(-source.height // 2), to.width
        step.from_, step.planes = source.view((1, 1)), _between_planes(to, source.channels)
        step.offset, step.finish.to = self._winograd[fused.node.name].offset, to.view()
        return step

    def _convolve_planes(
        self, step: Step, planes: Buffer, channels: int, winograd: Winograd
    ) -> None:
        address = self._constants.address
        step.kind, step.winograd = StepKind.CONVOLVE, 1
        step.rows, step.columns = -(-step.height // 2), planes.width
        step.run = _best_run(step.columns)
        step.from_, step.planes = planes.view(), _between_planes(planes, channels)
        self._read_at(step, np.arange(0, channels, 4))
        step.weights, step.narrow_run = address(winograd.weights), winograd.narrow_run
        step.corrections = address(winograd.corrections)
        step.blocks = step.group_blocks = len(winograd.weights)

    # --- what follows the sums ----------------------------------------------------------------

    def _finishing(self, finish: Finish) -> Finishing:
        result = Finishing()
        channels = extents(self._shapes[finish.value])[0]
        if finish.affine is not None:
            for name in ("scale", "bias"):
                numbers = np.zeros(padded(channels), dtype=np.float32)
                numbers[:channels] = getattr(finish.affine, name)
                setattr(result, name, self._constants.address(numbers))
        if finish.addend is not None:
            result.has_addend, result.addend = 1, self._buffers[finish.addend].view()
        if finish.bounds is not None:
            result.low, result.high = finish.bounds
            result.bounds = 1 if np.isposinf(result.high) else 2
        if finish.stored and finish.value in self._buffers:
            found = self._buffers[finish.value]
            result.stored, result.to, result.border = 1, found.view(), found.frame()
        result.projections = len(finish.levels)
        for slot, (name, layer_name) in enumerate(finish.levels):
            quantizer = self._network.input_quantizer(layer_name)
            result.levels[slot] = self._projection(self._buffers[name], quantizer)
            result.levels[slot].below = finish.bounds is None or finish.bounds[0] < 0
        return result

    def _projection(self, to: Buffer, quantizer: ActivationQuantizer) -> Projection:
        table = quantizer.table
        chunks = -(-len(table) // LINE)
        levels = np.zeros(chunks * LINE, dtype=np.uint8)
        levels[: len(table)] = table - quantizer.lowest_level
        kind = TableKind.SHUFFLED if len(table) <= _SHUFFLED_ENTRIES else TableKind.INDEXED
        if np.array_equal(levels[: len(table)], (np.arange(len(table)) + 1) // 2):
            kind = TableKind.UNIFORM
        return Projection(
            to=to.view(),
            border=to.frame(),
            table=self._constants.address(levels),
            kind=kind,
            chunks=chunks,
            scale=quantizer.index_scale,
            first=quantizer.first_index,
            last=len(table) - 1,
        )

    def _needs_scratch(self, size: int) -> None:
        self._scratch = max(self._scratch, size)


def _between_planes(planes: Buffer, channels: int) -> int:
    """Return the bytes from a transform of some channels to the next of the 16."""
    return channels if planes.channels > channels else planes.plane // POSITIONS


def _best_run(width: int) -> int:
    """Return the pixels of a run for rows of a width: as few computed twice as possible."""
    lengths = range(1, min(width, LONGEST_RUN) + 1)
    return min(lengths, key=lambda length: (-(-width // length) * length, -length))
