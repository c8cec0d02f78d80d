"""Layers as training leaves them: latent float weights and how they are quantized."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apot_export.network.codebook import Codebook
from apot_export.network.layers import ActivationQuantizer


@dataclass(frozen=True, kw_only=True)
class WeightQuantizer:
    """How a latent weight tensor becomes levels: normalise, divide by alpha, clamp, project.

    `rule` names the projection: "nearest" takes the first nearest of `candidates` to the magnitude
    (in that order), whose values the original divided by the largest; "nearest-undivided" takes
    them as they are; "round" rounds the magnitude times the codebook's denominator half to even.
    """

    codebook: Codebook
    alpha: np.float32
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
    quantizer: WeightQuantizer | EightBitWeights | MultiBitWeights | None
    """None for a layer whose weights stay float32."""
    bias: NDArray[np.float32] | None = None
    activation: ActivationQuantizer | None = None
    """Quantizer of the layer's input; None where the input stays float."""
    passes_negative_inputs: bool = False
    """Whether training let inputs below 0 pass, as levels below 0 that no code has."""
