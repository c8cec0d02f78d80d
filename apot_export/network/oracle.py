"""The oracle: a slow, obvious executor of coded networks in numpy.

Quantized layers are computed by integer shifts and additions over the codes alone. Everything else
is float32 as written: sums of float layers are taken in float64 and rounded once, `ScaleBias` is
one multiplication and one addition, each rounded to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from apot_export.errors import DatasetError
from apot_export.network import ActivationQuantizer, CodedLayer, CodedNetwork, Layer, Node
from apot_export.network import operations as op
from apot_export.network.bitpack import Codes
from apot_export.network.codebook import Codebook, power_of_two_shift
from apot_export.network.memory_plan import AnyNode, last_readers

Array = NDArray[Any]
Product = Callable[[Array, Array], Array]
_PATCH_NUMBERS = 1 << 20
"""Of the windows that are multiplied at once: memory, which all windows would take too much of."""


def run(
    network: CodedNetwork,
    images: NDArray[np.float32],
    observe: Callable[[str, Array], None] | None = None,
) -> NDArray[np.float32]:
    """Run a network.

    Args:
        network: A coded network.
        images: float32 [N, channels, height, width], preprocessed.
        observe: Called with the name and array of every value, in order of computation.

    Returns:
        Logits, float32 [N, classes].

    Raises:
        DatasetError: The images do not have the network's input shape.
    """
    require_images(images, network.input_shape)
    logits = execute(
        network.nodes,
        {network.input: images.astype(np.float32)},
        network.output,
        lambda node, inputs: compute(network, node, inputs),
        observe,
    )
    return np.asarray(logits, dtype=np.float32)


def compute(network: CodedNetwork, node: Node, inputs: list[Array]) -> Array:
    """Compute one node: float32 values, or int64 levels and accumulators."""
    operation, first = node.operation, inputs[0]
    if isinstance(operation, op.QuantizeActivation):
        return quantize_activation(first, network.input_quantizer(operation.layer))
    if not isinstance(operation, (op.Convolution, op.Linear)):
        return apply(operation, inputs)
    weights, product = _weights_and_product(network.layers[operation.layer])
    if isinstance(operation, op.Linear):
        return product(first, weights)
    return convolve(operation, first, weights, product)


@np.errstate(all="ignore")  # numbers may become infinite
def apply(operation: op.Operation, inputs: list[Array]) -> Array:
    """Compute an operation that has no layer."""
    first = inputs[0]
    found: Array
    match operation:
        case op.ScaleBias():
            axes = (1, -1, *[1] * (first.ndim - 2))
            scaled = first.astype(np.float32) * operation.scale.reshape(axes)
            found = np.asarray(scaled + operation.bias.reshape(axes), dtype=np.float32)
        case op.Relu():
            found = np.maximum(first, np.float32(0))
        case op.Clip():
            found = np.maximum(first, np.float32(operation.minimum))
            found = np.minimum(found, np.float32(operation.maximum))
        case op.AveragePool():
            taps = windows(first, operation.kernel, operation.stride)
            found = taps.mean(axis=(4, 5), dtype=np.float64).astype(np.float32)
        case op.GlobalAveragePool():
            found = first.mean(axis=(2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
        case _ if isinstance(operation, op.SelfComputing):
            found = operation.compute(*inputs)
        case _:
            found = rearrange(operation, inputs)
    return found


def quantize_activation(
    values: NDArray[np.float32], quantizer: ActivationQuantizer
) -> NDArray[np.int64]:
    """Project float32 values onto integer levels, int64 of the same shape."""
    with np.errstate(over="ignore"):  # an infinite index is clipped like any large one
        halves = np.floor(values * quantizer.index_scale)
    first = quantizer.first_index
    index = np.clip(halves, first, quantizer.last_index).astype(np.int64) - first
    return quantizer.table[index].astype(np.int64)


def shift_add_product(
    levels: NDArray[np.int64], codes: Codes, codebook: Codebook
) -> NDArray[np.int64]:
    """Multiply levels [rows, taps] with coded weights [out, taps] by shifts and additions alone.

    Per entry of a digit table, the levels whose weight selects that entry are added (or, where the
    sign bit is set, subtracted); the sum is then shifted by the entry's power of two.

    Returns:
        Accumulators, int64 [rows, out].
    """
    accumulators = np.zeros((levels.shape[0], codes.shape[0]), dtype=np.int64)
    sign = np.where(codes & codebook.sign_mask, -1, 1)
    offset = 0
    for table, width in zip(codebook.tables, codebook.field_bits, strict=True):
        selectors = (codes >> offset) & (len(table) - 1)
        offset += width
        for entry, addend in enumerate(table):
            if addend == 0:
                continue
            # A matrix of -1, 0 and 1: subtract, skip or add.
            chosen = np.where(selectors == entry, sign, 0)
            sums = levels @ chosen.T.astype(np.int64)
            shifted = sums << power_of_two_shift(addend)
            accumulators += shifted if addend > 0 else -shifted
    return accumulators


def _weights_and_product(layer: Layer) -> tuple[Array, Product]:
    """Return a layer's weights, and what makes sums of rows of inputs [rows, taps] and them.

    The weights of quantized inputs are codes; those of float inputs, whose sums are not scaled
    either, are a codebook's levels or float weights.
    """
    if isinstance(layer, CodedLayer):
        codebook = layer.codebook
        if layer.activation is not None:
            return layer.codes, lambda rows, codes: shift_add_product(rows, codes, codebook)
        return layer.levels(), _float_product
    return layer.weights(), _float_product


def _float_product(rows: Array, weights: Array) -> NDArray[np.float32]:
    return (rows.astype(np.float64) @ weights.astype(np.float64).T).astype(np.float32)


def convolve(operation: op.Convolution, image: Array, weights: Array, product: Product) -> Array:
    """Convolve an image with the weights of each group: return [N, out, height, width].

    Args:
        operation: Geometry of the convolution.
        image: [N, channels, height, width].
        weights: [out, channels / groups, kernel height, kernel width], or their codes.
        product: Makes sums [rows, out] of patches [rows, taps] and weights [out, taps].
    """
    kernel = (weights.shape[2], weights.shape[3])
    taps = windows(image, kernel, operation.stride, operation.padding, operation.dilation)
    count, _, height, width = taps.shape[:4]
    results = []
    for patches, chosen in zip(
        np.split(taps, operation.groups, axis=1), np.split(weights, operation.groups), strict=True
    ):
        size, positions = chosen[0].size, count * height * width
        step = max(1, _PATCH_NUMBERS // size)
        sums = []
        for first in range(0, positions, step):
            some = np.arange(first, min(first + step, positions))
            number, row, column = np.unravel_index(some, (count, height, width))
            rows = patches[number, :, row, column].reshape(-1, size)
            sums.append(product(rows, chosen.reshape(len(chosen), -1)))
        found = np.concatenate(sums).reshape(count, height, width, len(chosen))
        results.append(found.transpose(0, 3, 1, 2))
    return np.concatenate(results, axis=1)


def windows(
    image: Array,
    kernel: op.Pair,
    stride: op.Pair,
    padding: op.Pair = (0, 0),
    dilation: op.Pair = (1, 1),
    fill: float = 0,
) -> Array:
    """Return a view of every window: [N, C, out height, out width, kernel height and width]."""
    (high, wide), (step_y, step_x), (gap_y, gap_x) = padding, stride, dilation
    padded = np.pad(image, ((0, 0), (0, 0), (high, high), (wide, wide)), constant_values=fill)
    reach = ((kernel[0] - 1) * gap_y + 1, (kernel[1] - 1) * gap_x + 1)
    found = sliding_window_view(padded, reach, axis=(2, 3))
    return found[:, :, ::step_y, ::step_x, ::gap_y, ::gap_x]


def rearrange(operation: object, inputs: list[Array]) -> Array:
    """Compute an operation that takes integers and floats alike."""
    first = inputs[0]
    match operation:
        case op.Add():
            return np.asarray(first + inputs[1])
        case op.Concat():
            return np.concatenate(inputs, axis=operation.axis)
        case op.Upsample():
            return first.repeat(operation.scale[0], axis=2).repeat(operation.scale[1], axis=3)
        case op.Flatten():
            return first.reshape(first.shape[0], -1)
        case op.MaxPool():
            lowest = np.iinfo(first.dtype).min if first.dtype.kind == "i" else -np.inf
            kernel, stride, padding = operation.kernel, operation.stride, operation.padding
            taps = windows(first, kernel, stride, padding, fill=lowest)
            return np.asarray(taps.max(axis=(4, 5)))
        case _:
            raise TypeError(f"the oracle does not know {type(operation).__name__}")


NodeType = TypeVar("NodeType", bound=AnyNode)


def require_images(images: NDArray[Any], shape: Sequence[int]) -> None:
    """Raise `DatasetError` unless a batch is [N, channels, height, width] of a shape."""
    if images.ndim != 4 or images.shape[1:] != tuple(shape):  # noqa: PLR2004 - N C H W
        raise DatasetError(
            "The images do not have the network's input shape.",
            expected=f"[N, {', '.join(map(str, shape))}]",
            got=str(list(images.shape)),
        )


def execute(
    nodes: Sequence[NodeType],
    given: dict[str, NDArray[Any]],
    output: str,
    compute: Callable[[NodeType, list[NDArray[Any]]], NDArray[Any]],
    observe: Callable[[str, NDArray[Any]], None] | None,
) -> NDArray[Any]:
    """Compute nodes in order from given values, each kept until its last reader is computed.

    `observe` is called with the name and array of every value; the value `output` is returned.
    """
    values = dict(given)
    last_use = last_readers(nodes)
    for node in nodes:
        values[node.name] = compute(node, [values[name] for name in node.inputs])
        if observe is not None:
            observe(node.name, values[node.name])
        for name in {node.name, *node.inputs}:
            if last_use[name] == node.name and name != output:
                del values[name]
    return values[output]
