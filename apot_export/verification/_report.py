"""What `verify` found, in the words that scripts rely on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class WeightCertificate:
    """Comparison of every weight that an export decodes with the original's quantized weight."""

    layers: int
    """Weighted layers of the original that have quantized or float weights."""
    exact: int
    """Layers of which every weight is equal bit for bit."""
    weights: int
    offenders: tuple[str, ...]
    """Layers that differ: name, number of weights, the first with both values."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """Accuracy and speed of one executor; rates are fractions in [0, 1]."""

    top1: float
    top1_interval: tuple[float, float]
    """Wilson's 95 % interval of `top1`: what so many images allow to say."""
    top5: float
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Images that one side alone gets right."""

    original_only: int
    export_only: int
    probability: float
    """McNemar's exact two-sided test: of flips as uneven as these by chance."""


@dataclass(frozen=True, kw_only=True)
class LevelComparison:
    """Activation levels of both sides, every layer fed with the same input."""

    images: int
    compared: int
    differing: int
    unexplained: int
    """Differing levels of which no decision point lies within float rounding."""
    values_compared: int
    """Float values (residual stream, logits) that both sides computed from the same input."""
    values_outside: int
    """Of these, values further apart than float rounding allows."""
    largest_ratio: float
    """Largest difference of a float value in units of its rounding bound."""
    offenders: tuple[str, ...]
    """Layers with unexplained differences: name, number, the first with both values."""


@dataclass(frozen=True, kw_only=True)
class AccumulatorComparison:
    """What ONNX Runtime and the oracle compute, node by node, from the same inputs."""

    images: int
    compared: int
    """Integers: levels and accumulators."""
    mismatches: int
    offenders: tuple[str, ...]
    values_compared: int = 0
    """Float values of the other nodes."""
    values_outside: int = 0
    """Of these, values further apart than float rounding allows."""


@dataclass(frozen=True, kw_only=True)
class BackendComparison:
    """The integer network on several backends."""

    names: tuple[str, ...]
    """The first one is what the others are compared with."""
    images: int
    random_images: int
    differing: Mapping[str, int]
    """Images with other logits than the first backend's, by backend."""
    first_difference: Mapping[str, str]
    """The first value that differs, by backend that differs."""
    top1: float
    """Of the integer network, in [0, 1]."""
    fraction_bits: int

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        return {
            "names": list(self.names),
            "images": self.images,
            "random_images": self.random_images,
            "differing": dict(self.differing),
            "first_difference": dict(self.first_difference),
            "top1": self.top1,
            "fraction_bits": self.fraction_bits,
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that `verify` measured; the verdict is PASS when there are no failures."""

    path: Path
    dataset: str
    dataset_root: str
    images: int
    original: Side
    export: Side
    flips: Flips
    agreement: float
    """Fraction of images for which both sides name the same class."""
    self_agreement: float
    """The same between the original and itself with another convolution algorithm."""
    self_agreement_images: int
    largest_logit_difference: float
    mean_logit_difference: float
    weights: WeightCertificate
    levels: LevelComparison
    accumulators: AccumulatorComparison
    provider: str
    """Execution provider that computed the values."""
    settings: Mapping[str, Any]
    failures: tuple[str, ...]
    """One sentence per criterion that does not hold."""
    backends: BackendComparison | None = None
    """The integer network on several backends, where that was asked for."""

    @property
    def verdict(self) -> str:
        """PASS or FAIL."""
        return "FAIL" if self.failures else "PASS"

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        return {
            "verdict": self.verdict,
            "failures": list(self.failures),
            "path": str(self.path),
            "dataset": self.dataset,
            "dataset_root": self.dataset_root,
            "images": self.images,
            "original": _side(self.original),
            "export": _side(self.export),
            "flips": {
                "original_only": self.flips.original_only,
                "export_only": self.flips.export_only,
                "probability": self.flips.probability,
            },
            "agreement": self.agreement,
            "self_agreement": self.self_agreement,
            "self_agreement_images": self.self_agreement_images,
            "logit_difference": {
                "largest": self.largest_logit_difference,
                "mean": self.mean_logit_difference,
            },
            "weights": {
                "layers": self.weights.layers,
                "exact": self.weights.exact,
                "weights": self.weights.weights,
                "offenders": list(self.weights.offenders),
            },
            "levels": {
                "images": self.levels.images,
                "compared": self.levels.compared,
                "differing": self.levels.differing,
                "unexplained": self.levels.unexplained,
                "offenders": list(self.levels.offenders),
            },
            "values": {
                "compared": self.levels.values_compared,
                "outside": self.levels.values_outside,
                "largest_ratio": self.levels.largest_ratio,
            },
            "accumulators": {
                "images": self.accumulators.images,
                "compared": self.accumulators.compared,
                "mismatches": self.accumulators.mismatches,
                "values_compared": self.accumulators.values_compared,
                "values_outside": self.accumulators.values_outside,
                "offenders": list(self.accumulators.offenders),
            },
            "provider": self.provider,
            "backends": None if self.backends is None else self.backends.to_json(),
            "settings": dict(self.settings),
        }


def _side(side: Side) -> dict[str, Any]:
    return {
        "top1": side.top1,
        "top1_interval": list(side.top1_interval),
        "top5": side.top5,
        "images_per_second": side.images_per_second,
    }
