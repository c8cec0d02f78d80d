"""The intermediate representation: a small graph of operations over named layers.

It knows numpy and no framework. A *source* network holds what training left (latent float weights
and clipping thresholds); a *coded* network holds integers: every weighted layer of it produces
unscaled sums, and an explicit `ScaleBias` after it carries step sizes, batch-norm and bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from apot_export.bitpack import Codes, unpack
from apot_export.codebook import Codebook, distinct_levels, storage_bytes
from apot_export.errors import CaptureError

Pair = tuple[int, int]
Shape = tuple[int, ...]


# --- operations -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """Two-dimensional cross-correlation, N C H W, with the weights of a layer."""

    layer: str
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    """Zeros added on both sides of the height and of the width."""
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Matrix product of [N, in] with a layer's weights [out, in]."""

    layer: str


@dataclass(frozen=True, kw_only=True)
class QuantizeActivation:
    """Projection of a float tensor onto the integer levels of a layer's input quantizer."""

    layer: str


@dataclass(frozen=True, kw_only=True, eq=False)
class ScaleBias:
    """x * scale + bias per channel (axis 1): batch-norm, requantization and bias."""

    scale: NDArray[np.floating]
    """[channels]; float64 in a source network, float32 in a coded one."""
    bias: NDArray[np.floating]
    """[channels], the same type."""


@dataclass(frozen=True, kw_only=True)
class Add:
    """Elementwise sum of two tensors of one shape."""


@dataclass(frozen=True, kw_only=True)
class Relu:
    """max(x, 0)."""


@dataclass(frozen=True, kw_only=True)
class MaxPool:
    """Maximum over windows; the padding never wins."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@dataclass(frozen=True, kw_only=True)
class AveragePool:
    """Mean over windows without padding."""

    kernel: Pair
    stride: Pair


@dataclass(frozen=True, kw_only=True)
class GlobalAveragePool:
    """Mean over height and width, both kept as 1."""


@dataclass(frozen=True, kw_only=True)
class Flatten:
    """[N, ...] to [N, product]."""


Operation = (
    Convolution
    | Linear
    | QuantizeActivation
    | ScaleBias
    | Add
    | Relu
    | MaxPool
    | AveragePool
    | GlobalAveragePool
    | Flatten
)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation; its name is also the name of the value that it produces."""

    name: str
    inputs: tuple[str, ...]
    operation: Operation


# --- layers of a source network -------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class WeightQuantizer:
    """How a latent weight tensor becomes levels: normalise, divide by alpha, clamp, project.

    `rule` names the projection: "nearest" takes the first nearest of `candidates` to the magnitude
    (in that order), "round" rounds the magnitude times the codebook's denominator half to even;
    both then multiply by sign(t), which makes every zero positive before alpha. "round signed"
    rounds t itself, so that zeros keep their sign.
    """

    codebook: Codebook
    alpha: np.float32
    rule: str
    candidates: tuple[int, ...] = ()
    """Magnitudes in the order in which the original compares them; the first of equals wins."""
    mean: np.float32 | None = None
    """Subtracted from the weights, as the original computed it; None: no normalisation."""
    std: np.float32 | None = None
    """Divides the centred weights (unbiased deviation)."""


@dataclass(frozen=True, kw_only=True)
class EightBitWeights:
    """The rule of first and last layers: round(w / max * 127), max being the signed maximum."""


@dataclass(frozen=True, kw_only=True)
class ActivationQuantizer:
    """A layer's input quantizer: clip to [0, alpha], project onto the codebook's levels."""

    codebook: Codebook
    alpha: np.float32

    @property
    def step(self) -> float:
        """Value of one level, in units of the layer's input."""
        return float(self.alpha) / self.codebook.denominator

    @property
    def index_scale(self) -> np.float32:
        """What turns an input into an index of `table`: float32(2 * denominator / alpha)."""
        return np.float32(2 * self.codebook.denominator) / self.alpha

    @cached_property
    def table(self) -> NDArray[np.int32]:
        """Level of every half step, int32 [2 * denominator + 1].

        Decision points lie between neighbouring integer levels, so at multiples of half a step:
        level = table[floor(clip(x * 2 * denominator / alpha, 0, 2 * denominator))].
        """
        levels = distinct_levels(self.codebook)
        decision_points = levels[1:] + levels[:-1]
        halves = np.arange(2 * self.codebook.denominator + 1)
        return levels[np.searchsorted(decision_points, halves, side="right")]


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceLayer:
    """A weighted layer as training left it."""

    name: str
    weight: NDArray[np.float32]
    """Latent weights: [out, in / groups, height, width] or [out, in]."""
    quantizer: WeightQuantizer | EightBitWeights | None
    """None for a layer whose weights stay float32."""
    bias: NDArray[np.float32] | None = None
    activation: ActivationQuantizer | None = None
    """Quantizer of the layer's input; None where the input stays float."""


# --- layers of a coded network --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class CodedLayer:
    """A layer whose weights are codes of a codebook."""

    name: str
    shape: Shape
    """Weight shape: [out, in / groups, height, width] or [out, in]."""
    packed: NDArray[np.uint8]
    """Codes in C order, bit-packed (see `apot_export.bitpack`)."""
    codebook: Codebook
    step: float
    """Value of one level up to rounding."""
    values: NDArray[np.float32]
    """Value of every code, float32 [2 ** bits], with exactly the original's roundings."""
    alpha: float | None = None
    """Clipping threshold of the weights as trained, sign included; None for 8-bit layers."""
    activation: ActivationQuantizer | None = None
    """Quantizer of the layer's input; None where the input stays float."""

    @property
    def codes(self) -> Codes:
        """Code of every weight: uint8 (uint16 where a code has more than 8 bits), weight shape."""
        count = int(np.prod(self.shape, dtype=np.int64))
        return unpack(self.packed, self.codebook.bits, count).reshape(self.shape)

    def levels(self) -> NDArray[np.int32]:
        """Level of every weight in steps: int32, weight shape."""
        return self.codebook.levels[self.codes]

    def weights(self) -> NDArray[np.float32]:
        """Value of every weight, bit for bit the original's: float32, weight shape."""
        return self.values[self.codes]


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatLayer:
    """A layer whose weights stay float32."""

    name: str
    weight: NDArray[np.float32]

    @property
    def shape(self) -> Shape:
        """Weight shape."""
        return self.weight.shape

    def weights(self) -> NDArray[np.float32]:
        """Value of every weight: float32, weight shape."""
        return self.weight


Layer = CodedLayer | FloatLayer
LayerType = TypeVar("LayerType", bound=SourceLayer | CodedLayer | FloatLayer)


# --- networks -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Network(Generic[LayerType]):
    """Nodes in an order in which every input exists before it is used."""

    nodes: tuple[Node, ...]
    layers: Mapping[str, LayerType]
    input: str
    input_shape: Shape
    """One image: (channels, height, width)."""
    output: str
    shapes: Mapping[str, Shape] = field(init=False)
    """Shape of every value without the batch axis."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", _infer_shapes(self))

    def users(self, value: str) -> list[Node]:
        """Return the nodes that read a value."""
        return [node for node in self.nodes if value in node.inputs]


SourceNetwork = Network[SourceLayer]
CodedNetwork = Network[Layer]


def _infer_shapes(network: Network[LayerType]) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {network.input: network.input_shape}
    for node in network.nodes:
        inputs = []
        for name in node.inputs:
            if name not in shapes:
                raise CaptureError(
                    "A node reads a value that no earlier node produces.",
                    where=node.name,
                    got=name,
                )
            inputs.append(shapes[name])
        if node.name in shapes:
            raise CaptureError("Two values of the graph share a name.", where=node.name)
        shapes[node.name] = _output_shape(node, inputs, network)
    if network.output not in shapes:
        raise CaptureError("The network's output is produced by no node.", where=network.output)
    return shapes


def _weight_shape(network: Network[LayerType], node: Node, layer: str) -> Shape:
    if layer not in network.layers:
        raise CaptureError("A node names a layer that does not exist.", where=node.name, got=layer)
    found = network.layers[layer]
    return found.weight.shape if isinstance(found, SourceLayer) else found.shape


def _output_shape(node: Node, inputs: list[Shape], network: Network[LayerType]) -> Shape:
    operation = node.operation
    operands = 2 if isinstance(operation, Add) else 1
    if len(inputs) != operands:
        raise CaptureError(
            "An operation has the wrong number of inputs.",
            where=node.name,
            expected=str(operands),
            got=str(len(inputs)),
        )
    first = inputs[0]
    if isinstance(operation, Convolution):
        return _convolution_shape(node, operation, first, network)
    if isinstance(operation, Linear):
        out, features = _weight_shape(network, node, operation.layer)
        _expect(node, first, (features,))
        return (out,)
    if isinstance(operation, ScaleBias):
        _expect(node, operation.scale.shape, (first[0],))
        _expect(node, operation.bias.shape, (first[0],))
    if isinstance(operation, Add):
        _expect(node, inputs[1], first)
    if isinstance(operation, (MaxPool, AveragePool)):
        padding = operation.padding if isinstance(operation, MaxPool) else (0, 0)
        return (
            first[0],
            *_window_extent(node, first[1:], operation.kernel, operation.stride, padding),
        )
    if isinstance(operation, GlobalAveragePool):
        return (first[0], 1, 1)
    if isinstance(operation, Flatten):
        return (int(np.prod(first, dtype=np.int64)),)
    return first


def _convolution_shape(
    node: Node, operation: Convolution, image: Shape, network: Network[LayerType]
) -> Shape:
    out, group_inputs, *kernel = _weight_shape(network, node, operation.layer)
    if len(image) != 3 or image[0] != group_inputs * operation.groups:  # noqa: PLR2004 - C, H, W
        raise CaptureError(
            "A convolution's input does not fit its weights.",
            where=node.name,
            expected=f"[{group_inputs * operation.groups}, height, width]",
            got=str(list(image)),
        )
    reach = tuple(
        (extent - 1) * dilation + 1
        for extent, dilation in zip(kernel, operation.dilation, strict=True)
    )
    return (out, *_window_extent(node, image[1:], reach, operation.stride, operation.padding))


def _window_extent(node: Node, image: Shape, kernel: Shape, stride: Pair, padding: Pair) -> Shape:
    extents = tuple(
        (extent + 2 * pad - window) // step + 1
        for extent, window, step, pad in zip(image, kernel, stride, padding, strict=True)
    )
    if min(extents) < 1:
        raise CaptureError(
            "A window is larger than its image.",
            where=node.name,
            expected=f"at least {list(kernel)}",
            got=str(list(image)),
        )
    return extents


def _expect(node: Node, got: Shape, expected: Shape) -> None:
    if tuple(got) != tuple(expected):
        raise CaptureError(
            "A tensor of the graph has the wrong shape.",
            where=node.name,
            expected=str(list(expected)),
            got=str(list(got)),
        )


def packed_bytes(layer: CodedLayer) -> int:
    """Return the bytes of a layer's packed codes."""
    return storage_bytes(layer.shape, layer.codebook.bits)
