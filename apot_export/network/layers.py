"""Weighted layers: as training left them, and as codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from apot_export.network.bitpack import BLOCK, Codes, pack, unpack
from apot_export.network.codebook import Codebook, distinct_levels
from apot_export.network.planes import Planes, Shape
from apot_export.network.shown import Shown, dimensions

_Number = TypeVar("_Number", bound=np.generic)

# --- as training left them ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ActivationQuantizer:
    """A layer's input quantizer: clip, project onto the codebook's levels.

    Inputs are clipped at alpha from above, and from below at the codebook's lowest level: 0, or a
    negative one where training kept the sign of inputs.
    """

    codebook: Codebook
    alpha: np.float32
    input_denominator: int | None = None
    """Levels between 0 and alpha on the input side; None: the codebook's denominator.

    It is another where a training code divided what it had rounded by another number: then the
    quantized values reach beyond alpha.
    """

    @property
    def step(self) -> float:
        """Value of one level, in units of the layer's input."""
        return float(self.alpha) / self.codebook.denominator

    @property
    def index_scale(self) -> np.float32:
        """What turns an input into an index of `table`: float32(2 * input_steps / alpha)."""
        return np.float32(2 * self.input_steps) / self.alpha

    @property
    def input_steps(self) -> int:
        """Levels between 0 and alpha on the input side."""
        return self.input_denominator or self.codebook.denominator

    @property
    def lowest_level(self) -> int:
        """The lowest level: 0, or less where levels are signed."""
        return min(0, int(self.codebook.levels.min()))

    @property
    def first_index(self) -> int:
        """Half steps of the lowest level."""
        return 2 * self.lowest_level

    @property
    def last_index(self) -> int:
        """Half steps of alpha, which everything above it has, too."""
        return 2 * self.input_steps

    @cached_property
    def table(self) -> NDArray[np.int32]:
        """Level of every half step, int32 [last_index - first_index + 1].

        Decision points lie between neighbouring integer levels, so at multiples of half a step:
        level = table[clip(floor(x * index_scale), first_index, last_index) - first_index].
        """
        levels = distinct_levels(self.codebook)
        decision_points = levels[1:] + levels[:-1]
        edges = np.clip(decision_points, self.first_index, self.last_index + 1)
        edges = np.concatenate([[self.first_index], edges, [self.last_index + 1]])
        return np.repeat(levels, np.diff(edges))


@dataclass(frozen=True, kw_only=True)
class WeightQuantizer:
    """How a latent weight tensor becomes levels: normalise, divide by alpha, clamp, project.

    `rule` names the projection: "nearest" takes the first nearest of `candidates` to the magnitude
    (in that order), whose values the original divided by the largest; "nearest-undivided" takes
    them as they are; "round" rounds the magnitude times the codebook's denominator half to even;
    "steps" rounds the weight in units of alpha half to even, clipped where the codebook ends.
    """

    codebook: Codebook
    alpha: np.float32 | NDArray[np.float32]
    """One threshold, or one an output channel: float32 [out]."""
    rule: str
    candidates: tuple[int, ...] = ()
    """Magnitudes in the order in which the original compares them; the first of equals wins."""
    zeros: str = "sign"
    """What decides the sign of a weight of level 0, as the codes' arithmetic has it.

    "sign": the weight, but the threshold for a weight of exactly 0 (times sign(t), then alpha);
    "round": the weight (rounded as it is); "added": the threshold ((q - t) + t loses the sign);
    "positive": nothing, all are +0, as the user chose.
    """
    mean: np.float32 | None = None
    """Subtracted from the weights, as the original computed it; None: no normalisation."""
    std: np.float32 | None = None
    """Divides the centred weights (unbiased deviation)."""


@dataclass(frozen=True, kw_only=True)
class EightBitWeights:
    """The rule of first and last layers: round(w / max * 127), max being the signed maximum."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PowerOfTwoWeights:
    """Weights that are levels of a codebook times a step as training left them."""

    codebook: Codebook
    step: float
    """Value of one level up to rounding."""
    magnitudes: NDArray[np.float32]
    """Magnitudes of the weights without repetition, ascending."""
    codes: Codes
    """Code of each magnitude, without the sign bit."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MultiBitWeights:
    """Weights that training left as scaled sign vectors, in groups (see `planes`)."""

    bases: NDArray[np.int8]
    """Sign vectors of -1 and +1, [out, groups, slots, group_size]; 0 in slots that are not used."""
    coordinates: NDArray[np.float32]
    """Scale of every slot, [out, groups, slots]."""
    mask: NDArray[np.bool_]
    """Slots that are used, [out, groups, slots]."""
    position_major: bool
    """Whether a group holds the input channels of one kernel position."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceLayer:
    """A weighted layer as training left it."""

    name: str
    weight: NDArray[np.float32]
    """Latent weights: [out, in / groups, height, width] or [out, in]."""
    quantizer: WeightQuantizer | EightBitWeights | PowerOfTwoWeights | MultiBitWeights | None
    """None for a layer whose weights stay float32."""
    bias: NDArray[np.float32] | None = None
    activation: ActivationQuantizer | None = None
    """Quantizer of the layer's input; None where the input stays float."""
    passes_negative_inputs: bool = False
    """Whether training clipped inputs from above only: the codebook lacks the levels below 0."""


def by_output(values: NDArray[np.float32], axes: int) -> NDArray[np.float32]:
    """Return numbers of output channels, [out], with the axes of a weight tensor."""
    return values.reshape(-1, *[1] * (axes - 1))


# --- as codes -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedCodes:
    """Codes that are stored in another way than bit-packed; calling it packs them."""

    decode: Callable[[], Codes]
    """Returns the codes, flat."""
    bits: int
    """Width of a code."""
    stored_bytes: int
    """What they take where they are stored."""

    def __call__(self) -> NDArray[np.uint8]:
        """Return them bit-packed (see `apot_export.network.bitpack`)."""
        return pack(self.decode(), self.bits)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CodedLayer(Shown):
    """A layer whose weights are codes of a codebook."""

    name: str
    shape: Shape
    """Weight shape: [out, in / groups, height, width] or [out, in]."""
    stored: NDArray[np.uint8] | Callable[[], NDArray[np.uint8]]
    """Codes in C order, bit-packed (see `bitpack`), or a function that reads them on first use."""
    codebook: Codebook
    step: float
    """Value of one level up to rounding."""
    values: NDArray[np.float32]
    """Value of every code, float32 [2 ** bits], with exactly the original's roundings."""
    alpha: float | None = None
    """Clipping threshold of the weights as trained, sign included; None where there is none."""
    scales: NDArray[np.float32] | None = None
    """What the values and the step of each output channel are multiplied with: float32 [out]."""
    activation: ActivationQuantizer | None = None
    """Quantizer of the layer's input; None where the input stays float."""

    @cached_property
    def packed(self) -> NDArray[np.uint8]:
        """Codes in C order, bit-packed (see `bitpack`)."""
        return self.stored() if callable(self.stored) else self.stored

    @property
    def codes(self) -> Codes:
        """Code of every weight: uint8 (uint16 where a code has more than 8 bits), weight shape."""
        if isinstance(self.stored, EncodedCodes):
            return self.stored.decode().reshape(self.shape)
        return unpack(self.packed, self.codebook.bits, math.prod(self.shape)).reshape(self.shape)

    def tally(self, members: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count something in the codes of every output: int64 [out, things].

        Args:
            members: How many of each thing a code has, int64 [2 ** bits, things].
        """
        rows = self.codes.reshape(self.shape[0], -1)
        if rows.shape[1] < len(members):
            return np.stack([members[row].sum(axis=0) for row in rows])
        return np.stack([np.bincount(row, minlength=len(members)) for row in rows]) @ members

    def levels(self) -> NDArray[np.int32]:
        """Level of every weight in steps: int32, weight shape."""
        return _looked_up(self.codebook.levels, self.codes)

    def weights(self) -> NDArray[np.float32]:
        """Value of every weight, bit for bit the original's: float32, weight shape."""
        weights = _looked_up(self.values, self.codes)
        if self.scales is not None:
            weights *= by_output(self.scales, weights.ndim)
        return weights

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "layer", self.name
        yield "shape", dimensions(self.shape)
        yield "weights", f"{self.codebook.bits}-bit codes"


def _looked_up(table: NDArray[_Number], codes: Codes) -> NDArray[_Number]:
    """Return the number of every code, a block at a time: numpy makes int64 of indices."""
    found = np.empty(codes.shape, table.dtype)
    flat, numbers, step = codes.reshape(-1), found.reshape(-1), BLOCK // 8
    for first in range(0, flat.size, step):
        numbers[first : first + step] = table[flat[first : first + step]]
    return found


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FloatLayer(Shown):
    """A layer whose weights stay float32."""

    name: str
    stored: NDArray[np.float32] | Callable[[], NDArray[np.float32]]
    """The weights, or a function that reads them, called at each use."""
    stated_shape: Shape | None = None
    """Its shape, where that is known before the weights are read."""
    activation: ClassVar[None] = None

    @property
    def shape(self) -> Shape:
        """Weight shape."""
        return self.stated_shape or self.weights().shape

    def weights(self) -> NDArray[np.float32]:
        """Value of every weight: float32, weight shape."""
        return self.stored() if callable(self.stored) else self.stored

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "layer", self.name
        yield "shape", dimensions(self.shape)
        yield "weights", "float32"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PlaneLayer(Shown):
    """A layer whose weights are sums of scaled bit-planes."""

    name: str
    planes: Planes
    activation: ClassVar[None] = None

    @property
    def shape(self) -> Shape:
        """Weight shape."""
        return self.planes.shape

    def weights(self) -> NDArray[np.float32]:
        """Value of every weight: float32, weight shape."""
        return self.planes.weights()

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "layer", self.name
        yield "shape", dimensions(self.shape)
        yield "weights", f"{self.planes.average_bits():.3g} sign vectors"


Layer = CodedLayer | PlaneLayer | FloatLayer
