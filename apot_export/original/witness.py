"""Which quantization of weights and activations the statistics of batch-norm support.

Under a hypothesis the mean of every output channel c of a quantized convolution is

    mean_c = sum over inputs k and taps t of w[c, k, t] * inside[t] * E[a_k]

with the hypothesis's quantized weights w and quantized activations a_k of a normal distribution.
What is not known is taken as normal, too: an error of every E[a_k] (in units of a_k's deviation),
one of every tap of it (images are not the same everywhere), and noise of the running mean (in units
of the output's deviation). So the remembered means of a layer have a normal distribution under each
hypothesis, whose covariance is known but for those three scales; they are chosen for each
hypothesis to favour it most. The logarithm of the density is the hypothesis's evidence, in nats.

The true weights leave a residual that errors of the inputs explain; the weights of another
hypothesis differ by rounding, which such errors do not explain. docs/identify.md has the error
rates that were measured.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import nn

from apot_export.original.batch_norm import Floats, Site, find_sites, normal_cdf
from apot_export.original.choices import Choices
from apot_export.original.families import Family
from apot_export.original.level_sets import activation_level_set, weight_level_set
from apot_export.original.moments import weight_moments
from apot_export.original.quantization import FULL_PRECISION_BITS, Quantization

DECISIVE = 10.0
"""Nats of evidence between the best weights and all others from which on they are decided."""
_FEWEST_SITES = 3
_INPUT_ERRORS = (0.01, 0.04, 0.15, 0.6)
_TAP_ERRORS = (0.005, 0.03, 0.2)
_NOISES = (0.003, 0.015, 0.06, 0.3)
_SCALES = np.array(list(itertools.product(_INPUT_ERRORS, _TAP_ERRORS, _NOISES)))
"""[scales, 3]: deviations of the three unknown errors that are tried."""
_MOST_SITES = 6
"""Of inputs behind one batch-norm and of sums each, spread evenly over the network."""
_LIKELY = 3
_LIKELY_EXPONENTS = 4
"""How many values of Z are tried, the smallest first: others are hardly told from a 0 level."""
_ACTIVATION_BITS = range(2, 6)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A hypothesis about how weights are quantized."""

    method: str
    bits: int
    """Nominal bits; 32 for float."""
    grid: str = "zero"
    z: int | None = None
    """Exponent of the non-zero grid; None for a grid with zero."""
    normalize_weights: bool = True

    @staticmethod
    def of(quantization: Quantization) -> Weights:
        """Return what a quantization states about weights."""
        return Weights(
            method=quantization.method,
            bits=quantization.weight_bits,
            grid=quantization.grid,
            z=quantization.z if quantization.grid == "nonzero" else None,
            normalize_weights=quantization.normalize_weights,
        )

    def completing(self, choices: Choices) -> Choices:
        """Return a user's choices, completed by these weights."""
        stated = dataclasses.asdict(self)
        grid = stated.pop("grid") if self.z is not None else choices.grid
        return dataclasses.replace(choices, **{**stated, "grid": grid, "z": self.z or choices.z})

    def options(self) -> str:
        """Return the options of `convert` that state them."""
        options = f"--bits {self.bits} --method {self.method}"
        if self.z is not None:
            options += f" --grid nonzero --z {self.z}"
        return options if self.normalize_weights else f"{options} --no-weight-normalization"

    def __str__(self) -> str:
        parts = [f"{self.bits}-bit {self.method}"]
        if self.z is not None:
            parts.append(f"non-zero grid, Z {self.z}")
        if not self.normalize_weights:
            parts.append("not normalised")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Activations:
    """A hypothesis about how activations are quantized."""

    method: str
    bits: int
    """32 for float."""
    legacy_divisor: bool = False

    def __str__(self) -> str:
        if self.bits == FULL_PRECISION_BITS:
            return "float"
        return f"{self.bits}-bit {self.method}{', legacy divisor' * self.legacy_divisor}"


HypothesisT = TypeVar("HypothesisT", Weights, Activations)


@dataclass(frozen=True, kw_only=True)
class Support(Generic[HypothesisT]):
    """One hypothesis and its evidence."""

    hypothesis: HypothesisT
    evidence: float
    """Nats less than the best hypothesis: 0 for the best, negative for others."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What the batch-norms of a checkpoint support."""

    sites: int
    """Convolutions whose means were compared."""
    weights: tuple[Support[Weights], ...]
    """Best first; hypotheses of equal levels once."""
    activations: tuple[Support[Activations], ...]
    """Likewise, given the best weights; their level sets are rarely told apart."""
    unrelated: float
    """Evidence that the means have nothing to do with the weights, less the best hypothesis's."""

    @property
    def best(self) -> Weights | None:
        """The best hypothesis about the weights; None where nothing can be compared."""
        return self.weights[0].hypothesis if self.weights else None

    def of(self, family: Family, weights: Weights) -> float | None:
        """Return the evidence of a hypothesis, or of one of equal levels; None if not tried."""
        return next(
            (s.evidence for s in self.weights if same_weights(family, s.hypothesis, weights)), None
        )

    @property
    def decisive(self) -> bool:
        """Whether neither other weights nor unrelated means come near the best hypothesis."""
        others = [self.unrelated, *(support.evidence for support in self.weights[1:2])]
        return self.sites >= _FEWEST_SITES and max(others) <= -DECISIVE


def weigh(
    module: nn.Module,
    input_shape: tuple[int, ...],
    family: Family,
    stated: Weights | None = None,
) -> Statistics:
    """Weigh the hypotheses of a family against what a network's batch-norms remember.

    Weights that were not normalised are tried for the best three hypotheses of normalised ones,
    and for all others once they do better.

    Args:
        module: The network, built with any of the family's quantizations.
        input_shape: One image: (channels, height, width).
        family: Whose hypotheses are tried; one without thresholds has none.
        stated: A hypothesis to try in any case.
    """
    normalized = weight_hypotheses(family)
    sites = _of_one_quantization(find_sites(module, input_shape)) if normalized else []
    if not sites:
        return Statistics(sites=0, weights=(), activations=(), unrelated=0.0)
    groups = [
        _spread([site for site in sites if site.source.is_sum == is_sum])
        for is_sum in (False, True)
    ]
    activations = activation_hypotheses(family)
    totals = _evidence(groups, family, normalized, activations)
    likely = [normalized[i] for i in np.argsort(-totals.max(axis=1))[:_LIKELY]]
    raw = [dataclasses.replace(each, normalize_weights=False) for each in likely]
    raw += [stated] if stated and stated not in (*normalized, *raw) else []
    raw_totals = _evidence(groups, family, raw, activations)
    if raw_totals.max() > totals.max() - DECISIVE:
        raw = [dataclasses.replace(each, normalize_weights=False) for each in normalized]
        raw_totals = _evidence(groups, family, raw, activations)
    weights, totals = [*normalized, *raw], np.concatenate([totals, raw_totals])
    best = int(totals.max(axis=1).argmax())
    return Statistics(
        sites=sum(map(len, groups)),
        weights=_ranked(weights, totals.max(axis=1)),
        activations=_ranked(activations, totals[best]),
        unrelated=sum(map(_unrelated, filter(None, groups))) - float(totals.max()),
    )


def _unrelated(group: Sequence[Site]) -> float:
    """Return the evidence that means are noise, of the scale that favours this most."""
    means = np.concatenate([site.means / np.sqrt(site.variances) for site in group])
    scales = np.geomspace(1e-6, 10, 50)[:, None]
    densities = -((means / scales) ** 2) / 2 - np.log(scales) - math.log(2 * math.pi) / 2
    return float(densities.sum(axis=1).max())


def _of_one_quantization(sites: list[Site]) -> list[Site]:
    """Return the sites whose layers quantize as most do: bits can differ from layer to layer.

    Layers without spread or of threshold 0, which encoding refuses, are left out.
    """
    sites = [site for site in sites if np.isfinite(_scaled(site, normalize=True)).all()]
    counts = Counter(site.layer.quantization for site in sites)
    return [s for s in sites if s.layer.quantization == counts.most_common(1)[0][0]]


def _evidence(
    groups: Sequence[Sequence[Site]],
    family: Family,
    weights: Sequence[Weights],
    activations: Sequence[Activations],
) -> Floats:
    """Return the evidence of pairs of hypotheses, each at its best scales, in nats."""
    totals = np.zeros((len(weights), len(activations)))
    for group in filter(None, groups):
        densities = [_densities(site, family, weights, activations) for site in group]
        totals += np.sum(densities, axis=0).max(axis=2)
    return totals


def _ranked(
    hypotheses: Sequence[HypothesisT], evidence: Floats
) -> tuple[Support[HypothesisT], ...]:
    order = np.argsort(-evidence, kind="stable")
    best = evidence.max()
    return tuple(
        Support(hypothesis=hypotheses[i], evidence=float(evidence[i] - best)) for i in order
    )


def weight_hypotheses(family: Family) -> list[Weights]:
    """Return what a family's code can make of normalised weights; equal level sets once."""
    found: dict[object, Weights] = {}
    for variant in weight_variants(family):
        if variant.bits != FULL_PRECISION_BITS:
            found.setdefault(tuple(_magnitudes(family, variant).round(6)), variant)
    return list(found.values())


def weight_variants(family: Family) -> Iterator[Weights]:
    """Yield every level set that a family's code offers for normalised weights."""
    for method in family.methods:
        for bits in family.bit_widths(method):
            yield Weights(method=method, bits=bits)
            if family.has_grids(bits):
                for z in family.exponents[:_LIKELY_EXPONENTS]:
                    yield Weights(method=method, bits=bits, grid="nonzero", z=z)


def same_weights(family: Family, first: Weights, second: Weights) -> bool:
    """Tell whether two hypotheses are the same function, as 2-bit `apot` and `uniform` are."""
    levels = _magnitudes(family, first), _magnitudes(family, second)
    return first.normalize_weights == second.normalize_weights and np.array_equal(*levels)


def activation_hypotheses(family: Family) -> list[Activations]:
    """Return what codes can make of activations, which need not be what they make of weights."""
    pairs = itertools.product(("apot", "uniform"), _ACTIVATION_BITS)
    found = [Activations(method=method, bits=bits) for method, bits in pairs]
    if family.had_legacy_divisor:
        found += [
            Activations(method="uniform", bits=bits, legacy_divisor=True)
            for bits in _ACTIVATION_BITS
        ]
    return [*found, Activations(method="uniform", bits=FULL_PRECISION_BITS)]


def _magnitudes(family: Family, hypothesis: Weights) -> Floats:
    """Return the ascending levels of weights of threshold 1, without their sign."""
    levels = weight_level_set(
        Quantization(
            family=family.name,
            weight_bits=hypothesis.bits,
            activation_bits=hypothesis.bits,
            method=hypothesis.method,
            grid=hypothesis.grid,
            z=hypothesis.z or 2,
        )
    )
    if levels is None:
        steps = 2 ** (hypothesis.bits - 1) - 1
        return np.arange(steps + 1) / steps
    return np.sort(levels.double().numpy())


def _spread(sites: list[Site]) -> list[Site]:
    chosen = np.linspace(0, len(sites) - 1, min(len(sites), _MOST_SITES)).round().astype(int)
    return [sites[index] for index in chosen]


def _densities(
    site: Site, family: Family, weights: Sequence[Weights], activations: Sequence[Activations]
) -> Floats:
    """Return the log density of a site's means; float64 [weights, activations, scales]."""
    expected = np.stack([_expected_input(site, activation) for activation in activations])
    deviation = np.sqrt(site.source.moments()[1])
    layer = site.layer
    group_of = site.channels * layer.groups // layer.out_channels
    inputs = np.arange(layer.in_channels).reshape(layer.groups, -1)[group_of]
    same_group = group_of[:, None] == group_of
    # In units of each output's deviation, so that no layer's numbers are very large or small.
    unit = float(layer.weight_alpha.detach()) / np.sqrt(site.variances)
    means = site.means / np.sqrt(site.variances)
    scaled = {normalize: _scaled(site, normalize=normalize) for normalize in (True, False)}
    result = []
    for hypothesis in weights:
        levels = _magnitudes(family, hypothesis)
        values = scaled[hypothesis.normalize_weights]
        nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, np.abs(values))
        taps = np.sign(values) * levels[nearest] * (unit[:, None, None] * site.inside)
        summed = taps.sum(axis=2)  # [channels, inputs]
        spread = summed * deviation[inputs]
        by_tap = (taps * deviation[inputs][:, :, None]).reshape(len(taps), -1)
        noise = np.eye(len(taps))
        parts = np.stack(
            [(spread @ spread.T) * same_group, (by_tap @ by_tap.T) * same_group, noise]
        )
        residuals = means - np.einsum("ck,ack->ac", summed, expected[:, inputs])
        result.append(_log_density(residuals, np.tensordot(_SCALES**2, parts, axes=1)))
    return np.stack(result)


def _scaled(site: Site, *, normalize: bool) -> Floats:
    """Return the weights of the channels compared, in thresholds: [channels, inputs, taps]."""
    with torch.inference_mode():
        weight = site.layer.weight
        chosen = weight[torch.from_numpy(site.channels)]
        if normalize:
            mean, deviation = weight_moments(weight)
            chosen = chosen.sub(mean).div(deviation)
        scaled = chosen.div(site.layer.weight_alpha).clamp(min=-1, max=1).flatten(start_dim=2)
    return np.asarray(scaled.double().numpy())


def _log_density(residuals: Floats, covariances: Floats) -> Floats:
    """Return log densities [residuals, covariances] of normal distributions of mean 0."""
    # numpy: threads of PyTorch wait for each other longer than such small matrices take.
    factors = np.linalg.cholesky(covariances)
    # numpy 1 would take a matrix beside a stack of matrices for a stack of vectors.
    solved = np.linalg.solve(covariances, residuals.T[None])  # [covariances, channels, residuals]
    squares = np.einsum("rc,scr->rs", residuals, solved)
    logarithms = 2 * np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    constant = residuals.shape[1] * math.log(2 * math.pi)
    return np.asarray(-(squares + logarithms + constant) / 2)


def _expected_input(site: Site, hypothesis: Activations) -> Floats:
    """Return the mean of each quantized input channel."""
    if hypothesis.bits == FULL_PRECISION_BITS:
        return site.source.moments()[0]
    steps = 2**hypothesis.bits - 1
    levels = np.arange(steps + 1) / steps
    if hypothesis.method != "uniform":
        quantization = Quantization(
            family="", weight_bits=4, activation_bits=hypothesis.bits, method=hypothesis.method
        )
        level_set = activation_level_set(quantization)
        assert level_set is not None
        levels = np.sort(level_set.double().numpy())
    alpha = float(site.layer.act_alpha.detach())
    outputs = levels * alpha
    if hypothesis.legacy_divisor:
        outputs = outputs * steps / (2 ** (hypothesis.bits - 1) - 1)
    edges = (levels[1:] + levels[:-1]) / 2 * alpha
    below = normal_cdf((edges - site.source.mean[:, None]) / site.source.deviation[:, None])
    # The sum over levels of level times probability, by parts.
    return outputs[-1] - below @ np.diff(outputs)
