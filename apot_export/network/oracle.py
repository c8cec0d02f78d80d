"""The oracle: a slow, obvious executor of coded networks in numpy.

Quantized layers are computed by integer shifts and additions over the codes alone. Everything else
is float32 as written: sums of float layers are taken in float64 and rounded once, `ScaleBias` is
one multiplication and one addition, each rounded to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from apot_export.errors import DatasetError
from apot_export.network import (
    ActivationQuantizer,
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
    Pair,
    QuantizeActivation,
    Relu,
    ScaleBias,
    Upsample,
)
from apot_export.network.bitpack import Codes
from apot_export.network.codebook import Codebook, power_of_two_shift

Array = NDArray[Any]


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
    operation = node.operation
    if isinstance(operation, QuantizeActivation):
        quantizer = network.layers[operation.layer]
        if not isinstance(quantizer, CodedLayer) or quantizer.activation is None:
            raise TypeError(f"{operation.layer} has no input quantizer")
        return quantize_activation(inputs[0], quantizer.activation)
    if isinstance(operation, Convolution):
        return _convolution(network, operation, inputs[0])
    if isinstance(operation, Linear):
        layer = network.layers[operation.layer]
        if isinstance(layer, CodedLayer) and layer.activation is not None:
            return shift_add_product(inputs[0], layer.codes, layer.codebook)
        return _float_product(inputs[0], _sum_weights(layer))
    if isinstance(operation, ScaleBias):
        axes = (1, -1, *[1] * (inputs[0].ndim - 2))
        scaled = inputs[0].astype(np.float32) * operation.scale.reshape(axes)
        return np.asarray(scaled + operation.bias.reshape(axes), dtype=np.float32)
    return _plain(operation, inputs)


def quantize_activation(
    values: NDArray[np.float32], quantizer: ActivationQuantizer
) -> NDArray[np.int64]:
    """Project float32 values onto integer levels, int64 of the same shape."""
    with np.errstate(over="ignore"):  # an infinite index is clipped like any large one
        halves = np.clip(values * quantizer.index_scale, 0, quantizer.last_index)
    return quantizer.table.astype(np.int64)[halves.astype(np.int64)]


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


def _convolution(network: CodedNetwork, operation: Convolution, image: Array) -> Array:
    layer = network.layers[operation.layer]
    out_channels, group_inputs, *kernel = layer.shape
    group_outputs = out_channels // operation.groups
    results = []
    for group in range(operation.groups):
        channels = slice(group * group_inputs, (group + 1) * group_inputs)
        outputs = slice(group * group_outputs, (group + 1) * group_outputs)
        patches, extent = _patches(image[:, channels], operation, (kernel[0], kernel[1]))
        if isinstance(layer, CodedLayer) and layer.activation is not None:
            codes = layer.codes[outputs].reshape(group_outputs, -1)
            sums: Array = shift_add_product(patches, codes, layer.codebook)
        else:
            sums = _float_product(patches, _sum_weights(layer)[outputs].reshape(group_outputs, -1))
        results.append(sums.reshape(image.shape[0], *extent, group_outputs).transpose(0, 3, 1, 2))
    return np.concatenate(results, axis=1)


def _patches(image: Array, operation: Convolution, kernel: Pair) -> tuple[Array, Pair]:
    """Unfold N C H W into rows [N * out height * out width, C * kernel height * kernel width]."""
    (pad_height, pad_width), (step_y, step_x) = operation.padding, operation.stride
    (gap_y, gap_x) = operation.dilation
    padded = np.pad(image, ((0, 0), (0, 0), (pad_height, pad_height), (pad_width, pad_width)))
    reach = ((kernel[0] - 1) * gap_y + 1, (kernel[1] - 1) * gap_x + 1)
    windows = sliding_window_view(padded, reach, axis=(2, 3))
    windows = windows[:, :, ::step_y, ::step_x, ::gap_y, ::gap_x]
    extent = windows.shape[2:4]
    rows = windows.transpose(0, 2, 3, 1, 4, 5)
    return rows.reshape(image.shape[0] * extent[0] * extent[1], -1), (extent[0], extent[1])


def _sum_weights(layer: Any) -> NDArray[np.float64]:
    """Return what a float-input layer's unscaled sums are made of: integers, or float weights."""
    weights = layer.levels() if isinstance(layer, CodedLayer) else layer.weights()
    return np.asarray(weights, dtype=np.float64)


def _float_product(rows: Array, weights: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(rows.astype(np.float64) @ weights.T, dtype=np.float32)


def _plain(operation: object, inputs: list[Array]) -> Array:
    """Run an operation without weights."""
    first = inputs[0]
    if isinstance(operation, (MaxPool, AveragePool, GlobalAveragePool)):
        return _pooled(operation, first)
    results: dict[type[Any], Callable[[Any], Array]] = {
        Add: lambda _: np.asarray(first + inputs[1]),
        Relu: lambda _: np.maximum(first, np.float32(0)),
        Clip: lambda clip: np.minimum(
            np.maximum(first, np.float32(clip.minimum)), np.float32(clip.maximum)
        ),
        Concat: lambda _: np.concatenate(inputs, axis=1),
        Upsample: lambda up: first.repeat(up.scale[0], axis=2).repeat(up.scale[1], axis=3),
        Flatten: lambda _: first.reshape(first.shape[0], -1),
    }
    return results[type(operation)](operation)


def _pooled(operation: MaxPool | AveragePool | GlobalAveragePool, image: Array) -> Array:
    if isinstance(operation, GlobalAveragePool):
        return image.mean(axis=(2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    padded = image
    if isinstance(operation, MaxPool):
        high, wide = operation.padding
        border = ((0, 0), (0, 0), (high, high), (wide, wide))
        padded = np.pad(image, border, constant_values=-np.inf)
    step_y, step_x = operation.stride
    windows = sliding_window_view(padded, operation.kernel, axis=(2, 3))[:, :, ::step_y, ::step_x]
    if isinstance(operation, MaxPool):
        return np.asarray(windows.max(axis=(4, 5)))
    return windows.mean(axis=(4, 5), dtype=np.float64).astype(np.float32)


class _Node(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def inputs(self) -> tuple[str, ...]: ...


NodeType = TypeVar("NodeType", bound=_Node)


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
    """Compute nodes in order, keeping values only as long as someone reads them.

    Args:
        nodes: In an order in which every input exists before it is used.
        given: Values by name that exist before the first node.
        output: Name of the value to return.
        compute: Computes a node from its inputs.
        observe: Called with the name and array of every value.
    """
    values = dict(given)
    last_use = {name: node.name for node in nodes for name in node.inputs}
    for node in nodes:
        values[node.name] = compute(node, [values[name] for name in node.inputs])
        if observe is not None:
            observe(node.name, values[node.name])
        for name in set(node.inputs):
            if last_use[name] == node.name and name != output:
                del values[name]
    return values[output]
