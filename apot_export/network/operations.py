"""The operations of a network's graph. They know numpy and no framework."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Pair = tuple[int, int]
"""(height, width)"""


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
    """[channels], or [1] for all; float64 in a source network, float32 in a coded one."""
    bias: NDArray[np.floating]
    """[channels], or [1] for all, the same type."""


@dataclass(frozen=True, kw_only=True)
class Add:
    """Elementwise sum of two tensors; an extent of 1 counts for all places."""


@dataclass(frozen=True, kw_only=True)
class Relu:
    """max(x, 0)."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """min(max(x, minimum), maximum)."""

    minimum: float
    maximum: float


@dataclass(frozen=True, kw_only=True)
class Concat:
    """Tensors one after the other along an axis; 1 is that of the channels."""

    axis: int = 1


@dataclass(frozen=True, kw_only=True)
class Upsample:
    """Every value repeated over a block of `scale` (height, width): nearest neighbour."""

    scale: Pair


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


# --- operations that know how to compute themselves: all of them on floats ------------------------


@dataclass(frozen=True, kw_only=True)
class Multiply:
    """Elementwise product of two tensors; an extent of 1 counts for all places."""

    def compute(self, first: Array, second: Array) -> Array:
        """Return fl(first * second)."""
        return np.asarray(first * second)


class Function(NamedTuple):
    """A function of one number."""

    compute: Callable[[Array], Array]
    """In binary64."""
    onnx: str
    """The operator of ONNX."""
    scale: float
    """Magnitude beside the result's own that float32 evaluations err in proportion to."""


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


FUNCTIONS: Mapping[str, Function] = {
    "sigmoid": Function(_sigmoid, "Sigmoid", 1.0),
    "tanh": Function(np.tanh, "Tanh", 1.0),
    "exp": Function(np.exp, "Exp", 0.0),
    "log": Function(np.log, "Log", 1.0),
    "erf": Function(_erf, "Erf", 1.0),
    "sqrt": Function(np.sqrt, "Sqrt", 0.0),
    "reciprocal": Function(np.reciprocal, "Reciprocal", 0.0),
    "abs": Function(np.abs, "Abs", 0.0),
}

FUNCTION_ROUNDINGS = 16
"""Unit roundoffs of the result and its `scale` that two evaluations of one may be apart."""


@dataclass(frozen=True, kw_only=True)
class Elementwise:
    """A function of every number, by its name in `FUNCTIONS`."""

    function: str

    def compute(self, x: Array) -> Array:
        """Return the function's float64 results, rounded once to float32."""
        with np.errstate(all="ignore"):
            return FUNCTIONS[self.function].compute(x.astype(np.float64)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Reduce:
    """Mean or maximum over axes, 0 being the batch's; they stay, with an extent of 1."""

    function: str
    """ "mean" or "max"."""
    axes: tuple[int, ...]

    def compute(self, x: Array) -> Array:
        """Return the mean, summed in float64 and rounded once, or the maximum."""
        if self.function == "max":
            return np.asarray(x.max(axis=self.axes, keepdims=True, initial=-np.inf))
        return x.mean(axis=self.axes, keepdims=True, dtype=np.float64).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Every `step`-th place from `start` to before `stop`, along every axis but the batch's."""

    start: tuple[int, ...]
    stop: tuple[int, ...]
    step: tuple[int, ...]

    def compute(self, x: Array) -> Array:
        """Return a view of the chosen places."""
        if not len(self.start) == len(self.stop) == len(self.step) == x.ndim - 1:
            raise ValueError(f"a slice of {len(self.start)} axes of {x.ndim - 1}")
        if any(b > extent for b, extent in zip(self.stop, x.shape[1:], strict=True)):
            raise ValueError(f"a slice up to {self.stop} of {x.shape[1:]}")
        limits = zip(self.start, self.stop, self.step, strict=True)
        index = (slice(None), *(slice(*one) for one in limits))
        return np.asarray(x[index])


@dataclass(frozen=True, kw_only=True)
class Pad:
    """Places added before and after, along every axis but the batch's."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    value: float | None = 0.0
    """What they hold; None: the nearest value of the image."""

    def compute(self, x: Array) -> Array:
        """Return a larger tensor."""
        widths = [(0, 0), *zip(self.before, self.after, strict=True)]
        if self.value is None:
            return np.pad(x, widths, mode="edge") if x.size else np.pad(x, widths)
        return np.pad(x, widths, constant_values=np.float32(self.value))


@dataclass(frozen=True, kw_only=True)
class Reshape:
    """The numbers of an image, in C order, in another shape."""

    shape: tuple[int, ...]
    """Without the batch axis."""

    def compute(self, x: Array) -> Array:
        """Return a view."""
        if math.prod(self.shape) != math.prod(x.shape[1:]):
            raise ValueError(f"shape {self.shape} for {x.shape[1:]}")
        return np.reshape(x, (len(x), *self.shape))


@dataclass(frozen=True, kw_only=True)
class Transpose:
    """Another order of the axes but the batch's, which are counted from 1."""

    order: tuple[int, ...]

    def compute(self, x: Array) -> Array:
        """Return a view."""
        return np.transpose(x, (0, *self.order))


@dataclass(frozen=True, kw_only=True, eq=False)
class Resample:
    """A linear map of the height, and one of the width: interpolation, averages of windows."""

    rows: NDArray[np.float32]
    """[out height * height], C order: the share of every row in each new one."""
    columns: NDArray[np.float32]
    """[out width * width], likewise."""

    def matrices(self, height: int, width: int) -> tuple[Array, Array]:
        """Return both maps as matrices [out, in] for images of a size."""
        return self.rows.reshape(-1, height), self.columns.reshape(-1, width)

    def compute(self, x: Array) -> Array:
        """Return rows * image * columns transposed, in float64 and rounded once."""
        _, _, height, width = x.shape
        rows, columns = self.matrices(height, width)
        return (rows.astype(np.float64) @ x @ columns.T).astype(np.float32)


SelfComputing = Multiply | Elementwise | Reduce | Slice | Pad | Reshape | Transpose | Resample
"""Operations with a method `compute`, which also tells their shapes."""

Operation = (
    Convolution
    | Linear
    | QuantizeActivation
    | ScaleBias
    | Add
    | Relu
    | Clip
    | Concat
    | Upsample
    | MaxPool
    | AveragePool
    | GlobalAveragePool
    | Flatten
    | SelfComputing
)
