"""From a source network to a coded one: every weight becomes a code, every scale explicit.

The projection repeats the original's float32 roundings one by one, so that decoding gives its
quantized weights bit for bit, the sign of its zeros included.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from apot_export.encoding.planes import encode_planes
from apot_export.errors import CodebookError, WeightError
from apot_export.network import (
    CodedLayer,
    EightBitWeights,
    FloatLayer,
    Layer,
    MultiBitWeights,
    PlaneLayer,
    PowerOfTwoWeights,
    SourceLayer,
    WeightQuantizer,
)
from apot_export.network.bitpack import Codes, pack
from apot_export.network.codebook import Codebook, uniform
from apot_export.network.layers import by_output
from apot_export.original.checkpoint import require_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EIGHT_BIT_DENOMINATOR = 127
_FIX = "convert a checkpoint of an epoch in which training had not diverged"
_SMALLEST_THRESHOLD = 1e-30
"""No training leaves a smaller one, and float32 holds all scales that are made of it."""


def encode_layer(layer: SourceLayer, *, alpha_terms: int = 0) -> Layer:
    """Encode one layer's weights.

    Raises:
        WeightError: The weights or the threshold are not finite, constant, or the like.
        CodebookError: The layer's integers do not fit a code.
    """
    require_finite({f"{layer.name}.weight": layer.weight})
    if layer.activation is not None:
        _require_threshold(layer.activation.alpha, f"{layer.name}.act_alpha")
        if layer.activation.alpha < 0:
            raise WeightError(
                "An activation's clipping threshold is negative, so the layer's input is always 0.",
                where=f"{layer.name}.act_alpha",
                expected="a positive threshold",
                got=str(float(layer.activation.alpha)),
                fix=_FIX,
            )
    if layer.quantizer is None:
        return FloatLayer(name=layer.name, stored=layer.weight)
    if isinstance(layer.quantizer, MultiBitWeights):
        shape = layer.weight.shape
        planes = encode_planes(layer.name, shape, layer.quantizer, alpha_terms=alpha_terms)
        return PlaneLayer(name=layer.name, planes=planes)
    alpha = scales = None
    if isinstance(layer.quantizer, EightBitWeights):
        codes, codebook, values, step = _encode_eight_bit(layer)
    elif isinstance(layer.quantizer, PowerOfTwoWeights):
        codebook, step = layer.quantizer.codebook, layer.quantizer.step
        codes, values = _encode_powers_of_two(layer.weight, layer.quantizer)
    else:
        codes, codebook, values = _encode_thresholded(layer, layer.quantizer)
        step = 1 / codebook.denominator
        if np.ndim(layer.quantizer.alpha):
            scales = np.abs(layer.quantizer.alpha)
        else:
            alpha = float(layer.quantizer.alpha)
            step = abs(alpha) / codebook.denominator
    return CodedLayer(
        name=layer.name,
        shape=layer.weight.shape,
        stored=pack(codes, codebook.bits),
        codebook=codebook,
        step=step,
        values=values,
        alpha=alpha,
        scales=scales,
        activation=layer.activation,
    )


def _require_threshold(alpha: np.float32, where: str) -> None:
    # Below the smallest normal number, and at its reciprocal, float32 no longer holds the scales.
    if not np.isfinite(alpha) or not _SMALLEST_THRESHOLD <= abs(alpha) <= 1 / _SMALLEST_THRESHOLD:
        raise WeightError(
            "A clipping threshold cannot be used.",
            where=where,
            expected=f"a magnitude from {_SMALLEST_THRESHOLD:g} to {1 / _SMALLEST_THRESHOLD:g}",
            got=str(float(alpha)),
            fix=_FIX,
        )


# --- layers whose weights are levels already ------------------------------------------------------


def _encode_powers_of_two(
    weights: NDArray[np.float32], found: PowerOfTwoWeights
) -> tuple[Codes, NDArray[np.float32]]:
    codebook = found.codebook
    codes = found.codes[np.searchsorted(found.magnitudes, np.abs(weights))]
    codes |= np.multiply(np.signbit(weights), codebook.sign_mask, dtype=codes.dtype)
    values = (codebook.levels[: codebook.sign_mask] * found.step).astype(np.float32)
    values[found.codes] = found.magnitudes
    return codes, np.concatenate([values, -values])


# --- first and last layers ------------------------------------------------------------------------


def _encode_eight_bit(
    layer: SourceLayer,
) -> tuple[Codes, Codebook, NDArray[np.float32], float]:
    maximum = layer.weight.max()
    if not _SMALLEST_THRESHOLD <= abs(maximum) <= 1 / _SMALLEST_THRESHOLD:
        raise WeightError(
            "The largest weight of an 8-bit layer is 0 or no scale for its integers.",
            where=f"{layer.name}.weight",
            expected=f"a signed maximum of magnitude {_SMALLEST_THRESHOLD:g} to "
            f"{1 / _SMALLEST_THRESHOLD:g}",
            got=str(float(maximum)),
        )
    # Negative weights may exceed the signed maximum in magnitude: the integers leave int8.
    with np.errstate(over="ignore"):
        rounded = np.rint(layer.weight / maximum * np.float32(_EIGHT_BIT_DENOMINATOR))
    largest = float(np.abs(rounded).max())
    magnitude_bits = max(1, int(largest).bit_length()) if largest < 1 << 30 else 31
    try:
        codebook = uniform(magnitude_bits, signed=True, denominator=_EIGHT_BIT_DENOMINATOR)
    except CodebookError as error:
        raise WeightError(
            "The most negative weight of an 8-bit layer exceeds its maximum too far.",
            where=f"{layer.name}.weight",
            expected="integers of at most 15 bits and a sign",
            got=f"integers up to {largest:.0f}",
        ) from error
    sign = np.where(np.signbit(rounded), codebook.sign_mask, 0)
    codes = (np.abs(rounded).astype(np.int32) | sign).astype(codebook.code_dtype)
    magnitudes = codebook.levels[: codebook.sign_mask].astype(np.float32)
    values = magnitudes / np.float32(_EIGHT_BIT_DENOMINATOR) * maximum
    step = float(maximum) / _EIGHT_BIT_DENOMINATOR
    return codes, codebook, np.concatenate([values, -values]), step


# --- layers with a clipping threshold -------------------------------------------------------------


def _encode_thresholded(
    layer: SourceLayer, quantizer: WeightQuantizer
) -> tuple[Codes, Codebook, NDArray[np.float32]]:
    for one in np.ravel(quantizer.alpha):
        _require_threshold(one, f"{layer.name}.weight_alpha")
    # In place from the first result on: a layer of the largest networks takes megabytes.
    scaled = layer.weight
    if quantizer.mean is not None and quantizer.std is not None:
        if not (np.isfinite(quantizer.mean) and np.isfinite(quantizer.std)):
            raise WeightError(
                "The weights of a layer are too large for float32 to normalise.",
                where=f"{layer.name}.weight",
                expected="a mean and a standard deviation that are finite",
                got=f"{float(quantizer.mean)} and {float(quantizer.std)}",
                fix=_FIX,
            )
        if not quantizer.std > 0:
            raise WeightError(
                "All weights of a layer are equal, so they cannot be normalised.",
                where=f"{layer.name}.weight",
                expected="a positive standard deviation",
                got=str(float(quantizer.std)),
            )
        with np.errstate(over="ignore"):
            scaled = np.asarray(scaled - quantizer.mean, dtype=np.float32)
            scaled /= quantizer.std
    # A negative threshold negates twice: the original's result is exactly that of its magnitude.
    alpha = np.asarray(quantizer.alpha)
    if alpha.ndim:
        alpha = by_output(alpha, layer.weight.ndim)
    threshold = np.abs(alpha)
    # Values of one channel are those of another in units of their thresholds.
    unit = np.float32(1) if alpha.ndim else threshold
    with np.errstate(over="ignore"):
        scaled = np.divide(scaled, threshold, out=None if scaled is layer.weight else scaled)
    codebook = quantizer.codebook
    if quantizer.rule == "steps":
        values = (codebook.levels * unit).astype(np.float32)
        return _rounded_steps(scaled, codebook.levels), codebook, values
    negative, zero = np.signbit(scaled), scaled == 0
    magnitude = np.abs(scaled, out=scaled)
    np.minimum(magnitude, np.float32(1), out=magnitude)
    unit_values = _unit_values(codebook, quantizer.rule)
    if quantizer.rule == "round":
        factor = np.float32(codebook.denominator)
        codes = np.rint(np.multiply(magnitude, factor, out=magnitude)).astype(codebook.code_dtype)
    else:
        codes = _nearest_codes(magnitude, quantizer, unit_values)
    if quantizer.zeros != "round":
        is_zero = zero if quantizer.zeros == "sign" else (codebook.levels == 0)[codes] | zero
        sign = np.signbit(alpha) if quantizer.zeros != "positive" else np.False_
        negative = np.where(is_zero, sign, negative)
    codes |= np.multiply(negative, codebook.sign_mask, dtype=codes.dtype)
    if 0 not in codebook.levels and zero.any():
        codebook, unit_values, codes = _with_zero(codebook, unit_values, codes, zero)
    values = unit_values * unit
    return codes, codebook, np.concatenate([values, -values])


def _rounded_steps(scaled: NDArray[np.float32], levels: NDArray[np.int32]) -> Codes:
    """Return the codes of numbers in steps, clipped at the ends of the levels; at most 8 bits."""
    order = np.argsort(levels)
    rounded = np.rint(scaled.clip(levels.min(), levels.max()))
    return np.asarray(order[np.searchsorted(levels[order], rounded)], dtype=np.uint8)


def _with_zero(
    codebook: Codebook,
    unit_values: NDArray[np.float32],
    codes: Codes,
    zeros: NDArray[np.bool_],
) -> tuple[Codebook, NDArray[np.float32], Codes]:
    """Widen a grid without zero for a layer that has weights of exactly 0.

    The original multiplies by sign(0) = 0, which takes such a weight off its grid.
    """
    (table,) = codebook.tables
    widened = Codebook(
        tables=((*table, *[0] * len(table)),),
        denominator=codebook.denominator,
        signed=codebook.signed,
    )
    magnitudes = codes & (codebook.sign_mask - 1)
    magnitudes[zeros] = len(table)
    signs = np.where(codes & codebook.sign_mask, widened.sign_mask, 0)
    wide_values = np.concatenate([unit_values, np.zeros_like(unit_values)])
    # Two bits of selector and a sign at most: a byte holds them.
    return widened, wide_values, (magnitudes | signs).astype(np.uint8)


def _unit_values(codebook: Codebook, rule: str) -> NDArray[np.float32]:
    """Value of every unsigned code at threshold 1, with the original's roundings."""
    magnitudes = codebook.levels[: codebook.sign_mask]
    if rule == "round":
        return magnitudes.astype(np.float32) / np.float32(codebook.denominator)
    if rule == "nearest-undivided":
        return (magnitudes / codebook.denominator).astype(np.float32)
    # The original lists its levels as dyadic fractions and multiplies by float32(1 / largest).
    unit = 1 << (codebook.denominator - 1).bit_length()
    fractions = (magnitudes / unit).astype(np.float32)
    reciprocal = np.float32(1) / np.float32(codebook.denominator / unit)
    return np.asarray(fractions * reciprocal, dtype=np.float32)


def _nearest_codes(
    magnitude: NDArray[np.float32],
    quantizer: WeightQuantizer,
    unit_values: NDArray[np.float32],
) -> Codes:
    """Project magnitudes in [0, 1] onto their nearest level, ties as the original breaks them."""
    code_of_level = quantizer.codebook.code_of_level()
    codes = np.array([code_of_level[level] for level in quantizer.candidates], dtype=np.int64)
    ascending = np.argsort(np.asarray(quantizer.candidates))
    candidates = unit_values[codes]
    rank = np.zeros(magnitude.shape, dtype=np.uint8)
    for low, high in itertools.pairwise(ascending):
        rank += magnitude >= _first_above(candidates, int(low), int(high))
    in_order = codes[ascending].astype(quantizer.codebook.code_dtype)
    return np.asarray(in_order[rank], dtype=in_order.dtype)


def _first_above(candidates: NDArray[np.float32], low: int, high: int) -> np.float32:
    """Return the smallest float32 that goes to candidate `high` rather than `low` below it.

    The original compares rounded distances and takes the first minimum. Both distances are
    monotone in the magnitude, so one threshold says all; it is found by bisection over the floats
    (non-negative floats are ordered like their bits).
    """

    def goes_up(bits: int) -> bool:
        magnitude = np.array(bits, dtype=np.uint32).view(np.float32)
        to_low = np.abs(magnitude - candidates[low])
        to_high = np.abs(magnitude - candidates[high])
        return bool(to_high < to_low or (to_high == to_low and high < low))

    below = int(candidates[low].view(np.uint32))
    above = int(candidates[high].view(np.uint32))
    while above - below > 1:
        middle = (below + above) // 2
        if goes_up(middle):
            above = middle
        else:
            below = middle
    return np.float32(np.array(above, dtype=np.uint32).view(np.float32))
