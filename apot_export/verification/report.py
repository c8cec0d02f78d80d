"""What `verify` found, in the words that scripts rely on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts import strict_json
from apot_export.network.comparison import AccumulatorComparison
from apot_export.network.logits import LogitComparison
from apot_export.network.shown import Shown, percent

if TYPE_CHECKING:
    from apot_export.runtimes.exactness import Exactness
    from apot_export.verification.proof.sample import SampleComparison

DIFFERENCE_EDGES = tuple(10.0**power for power in range(-7, 3))
DISTANCE_EDGES = (0.125, 0.25, 0.5, 1.0)
"""Differences of logits and distances are counted below the first, between two, from the last."""
WITHOUT_ORIGINAL = "PASS, without its original"
"""The verdict where ONNX model, packed file and oracle agree, and no original is there."""


@dataclass(frozen=True, kw_only=True)
class WeightCertificate:
    """Comparison of every weight that an export decodes with the original's quantized weight."""

    layers: int = 0
    """Weighted layers of the original that have quantized or float weights."""
    exact: int = 0
    """Layers of which every weight is equal bit for bit."""
    weights: int = 0
    offenders: tuple[str, ...] = ()
    """Layers that differ: name, number of weights, the first with both values."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """Accuracy and speed of one executor; rates are fractions in [0, 1]."""

    top1: float | None
    """None, as the next four, where the images have no labels."""
    top1_hits: int | None
    """Images of which the first choice is right."""
    top1_interval: tuple[float, float] | None
    """Wilson's 95 % interval of `top1`: what so many images allow to say."""
    top5: float | None
    top5_hits: int | None
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Images that one side alone gets right."""

    original_only: int
    export_only: int
    probability: float
    """McNemar's exact two-sided test: of flips as uneven as these by chance."""


@dataclass(frozen=True, kw_only=True)
class ComparedSide:
    """An executor of the export, and what it has in common with the original."""

    name: str
    """ort-cpu, ort-cuda, openvino, native, oracle or packed."""
    side: Side
    agreement: float
    """Fraction of images (of maps: of positions) for which it names the original's class."""
    flips: Flips | None
    """None where the images have no labels."""
    largest_logit_difference: float
    mean_logit_difference: float
    logit_differences: tuple[int, ...]
    """Logits by how far they are from the original's: counts between `DIFFERENCE_EDGES`."""


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """The original against itself, computed another way."""

    name: str
    """What was changed: "convolution algorithm", "batch size" or "TF32"."""
    images: int
    agreeing: float
    """Images for which it names the same class; of maps, their shares of positions, summed."""

    @property
    def agreement(self) -> float:
        """Fraction of images for which both name the same class."""
        return self.agreeing / self.images


@dataclass(frozen=True, kw_only=True)
class RecordComparison:
    """The accuracy that the checkpoint's file records, beside the one that was measured."""

    key: str
    """Name of the recorded value in the file, as "best_prec"."""
    recorded: float
    """Fraction in (0, 1], as the next three."""
    measured: float
    """Top-1 of the export."""
    interval: tuple[float, float]
    """Wilson's 99.9 % interval of `measured`."""
    verdict: str
    """"ok" within the interval, "warning" outside, "FAIL" where the export is clearly worse than
    the record, "ignored" where it is and the user said so."""


@dataclass(frozen=True, kw_only=True)
class ReferenceComparison:
    """An export beside the outputs that the user's own code computed from the same images.

    Differences are the largest of an image, in units of the standard deviation of all outputs.
    """

    file: str
    sha256: str
    images: int
    agreement: float
    """Fraction of images (positions of maps) for which both name the same class."""
    equal: float
    """Fraction of images that differ by no more than `noise`."""
    noise: float
    """What rounding alone does: the difference that one in ten images exceeds when the export runs
    on images times 1 +- 1e-6; at least 1e-4."""
    least_difference: float
    """Of the images that agree best: the difference that one in ten images is below."""
    least_noise: float
    """The same of what rounding alone does; at least 1e-4."""
    typical_difference: float
    """Median over the images."""
    largest_difference: float
    original_agreement: float | None
    """As `agreement` and `equal`, of the original that was rebuilt; None without one."""
    original_equal: float | None


@dataclass(frozen=True, kw_only=True)
class FlippedImage:
    """An image of which the two sides name different classes."""

    name: str
    label: str | None
    """None where it is not known."""
    original: str
    """The class that the original names; for maps, at the first position that differs."""
    export: str
    pixels: NDArray[np.uint8]
    """[height, width, channels], 1 or 3 channels, as a person would see it."""


@dataclass(frozen=True, kw_only=True)
class SkippedImage:
    """An image that could not be read."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class LayerLevels:
    """Activation levels of one quantized layer, both sides fed with the same input."""

    layer: str
    compared: int = 0
    differing: int = 0
    unexplained: int = 0
    distances: tuple[int, ...] = (0,) * (len(DISTANCE_EDGES) + 1)
    """Differing levels by their distance to the decision point in units of the float rounding
    bound: counts between `DISTANCE_EDGES`. Above 1 is unexplained."""
    largest_distance: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The first place, in order of computation, at which an export is not the original."""

    layer: str
    kind: str
    """What differs: "weights", "constants", "levels", "values" or "integers"."""
    place: tuple[int, ...]
    """Index of the first value that differs; empty where the layer as a whole does."""
    channel: int | None
    original: float | None
    export: float | None
    cause: str | None
    """Probable cause, of `diagnosis.CAUSES`; None where none of the known ones fits."""
    evidence: str
    """Why that cause is probable, or what was tried."""


@dataclass(frozen=True, kw_only=True)
class LevelComparison:
    """Activation levels of both sides, every layer fed with the same input."""

    images: int = 0
    compared: int = 0
    differing: int = 0
    unexplained: int = 0
    """Differing levels of which no decision point lies within float rounding."""
    values_compared: int = 0
    """Float values (residual stream, logits) that both sides computed from the same input."""
    values_outside: int = 0
    """Of these, values further apart than float rounding allows."""
    largest_ratio: float = 0.0
    """Largest difference of a float value in units of its rounding bound."""
    offenders: tuple[str, ...] = ()
    """Layers with unexplained differences: name, number, the first with both values."""
    layers: tuple[LayerLevels, ...] = ()
    """The levels of every quantized layer, in order of computation."""


@dataclass(frozen=True, kw_only=True)
class SizeComparison:
    """Values of an export of dynamic size on random images of another size than its own."""

    size: str
    """Height x width."""
    levels: LevelComparison
    accumulators: AccumulatorComparison
    failures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SideProof:
    """What one side computes on a few images, all of it held to the original and the oracle."""

    levels: LevelComparison
    accumulators: AccumulatorComparison
    logits: LogitComparison = field(default_factory=LogitComparison)
    """Of the side as it runs, whatever it shows, in batches of every size that there are."""
    failures: tuple[str, ...] = ()


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
    top1: float | None
    """Of the integer network, in [0, 1]; None where the images have no labels."""
    fraction_bits: int


@dataclass(frozen=True, kw_only=True, repr=False)
class Report(Shown):
    """Everything that `verify` measured; the verdict is a PASS when there are no failures."""

    path: Path
    dataset: str
    dataset_root: str
    images: int
    """Images that were read and run."""
    skipped: tuple[SkippedImage, ...]
    """Images that could not be read."""
    data_sha256: str
    """Of all preprocessed images and their labels, in order."""
    date: str
    """When the run ended: ISO 8601, UTC."""
    original: Side
    """Without an original, the user's own outputs (`reference`), else the packed file's network."""
    sides: tuple[ComparedSide, ...]
    """What was compared with the original; the first one is the export of the verdict."""
    yardsticks: tuple[Yardstick, ...]
    """The original against itself; the first one is the yardstick of the verdict."""
    flipped: tuple[FlippedImage, ...]
    """The first images of which original and export name different classes."""
    weights: WeightCertificate
    levels: LevelComparison
    accumulators: AccumulatorComparison
    placement: Mapping[str, int]
    """Nodes that computed values, by execution provider."""
    provider: str
    """Execution provider that computed the values."""
    settings: Mapping[str, Any]
    failures: tuple[str, ...]
    """One sentence per criterion that does not hold."""
    exactness: Mapping[str, Exactness] = field(default_factory=dict)
    """What the probe of the network's products found, by side of ONNX Runtime."""
    proofs: Mapping[str, SideProof] = field(default_factory=dict)
    """What each side computes on a few images, by side."""
    divergence: Divergence | None = None
    """The first place at which the export is not the original, where there is one."""
    backends: BackendComparison | None = None
    """The integer network on several backends, where that was asked for."""
    another_size: SizeComparison | None = None
    """The proof at another size of images; None for an export of one size."""
    record: RecordComparison | None = None
    """The accuracy that the checkpoint records; None without one, or on other images."""
    reference: ReferenceComparison | None = None
    """The outputs that the user's own code computed, where they are given."""
    sample: SampleComparison | None = None
    """The inputs that lie in the export; None without them."""
    notes: tuple[str, ...] = ()
    """What could not be done and changes no verdict."""

    @property
    def verdict(self) -> str:
        """PASS or FAIL; `WITHOUT_ORIGINAL` where nothing but the export itself was there."""
        nothing = "baseline" in self.settings and self.reference is None
        passed = WITHOUT_ORIGINAL if nothing else "PASS"
        return "FAIL" if self.failures else passed

    @property
    def export(self) -> Side:
        """Accuracy and speed of the export."""
        return self.sides[0].side

    @property
    def flips(self) -> Flips | None:
        """Images that the original or the export alone gets right; None without labels."""
        return self.sides[0].flips

    @property
    def agreement(self) -> float:
        """Fraction of images for which original and export name the same class."""
        return self.sides[0].agreement

    @property
    def self_agreement(self) -> float | None:
        """The same between the original and itself computed otherwise; None without one."""
        return self.yardsticks[0].agreement if self.yardsticks else None

    def verdict_to_json(self) -> dict[str, Any]:
        """Return what an export's manifest keeps of its last verification."""
        return {
            "verdict": self.verdict,
            "failures": list(self.failures),
            "date": self.date,
            "dataset": self.dataset,
            "data_sha256": self.data_sha256,
            "images": self.images,
            "skipped": len(self.skipped),
            "original_top1": self.original.top1,
            "export_top1": self.export.top1,
            "agreement": self.agreement,
            "self_agreement": self.self_agreement,
            "record": None if self.record is None else asdict(self.record),
            "reference": None if self.reference is None else asdict(self.reference),
            "levels_differing": self.levels.differing,
            "levels_unexplained": self.levels.unexplained,
            "settings": dict(self.settings),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form; null stands for infinities and NaN."""
        found = {"verdict": self.verdict, **asdict(self)}
        for image in found["flipped"]:
            del image["pixels"]
        for entry, yardstick in zip(found["yardsticks"], self.yardsticks, strict=True):
            entry["agreement"] = yardstick.agreement
        counts = [side.pop("logit_differences") for side in found["sides"]]
        found["sides"] = sides = [{**side.pop("side"), **side} for side in found["sides"]]
        levels = found["levels"]
        found |= {
            "path": str(self.path),
            "export": asdict(self.export),
            "flips": sides[0]["flips"],
            "agreement": self.agreement,
            "self_agreement": self.self_agreement,
            "self_agreement_images": self.yardsticks[0].images if self.yardsticks else None,
            "logit_difference": {
                "largest": sides[0]["largest_logit_difference"],
                "mean": sides[0]["mean_logit_difference"],
                "counts": counts[0],
                "edges": DIFFERENCE_EDGES,
            },
            "values": {
                "compared": levels.pop("values_compared"),
                "outside": levels.pop("values_outside"),
                "largest_ratio": levels.pop("largest_ratio"),
            },
        }
        levels["distance_edges"] = DISTANCE_EDGES
        for proof in found["proofs"].values():
            del proof["levels"]["layers"]
        return {name: strict_json.finite(value) for name, value in found.items()}

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "verdict", self.verdict
        yield "path", self.path
        yield "images", f"{self.images:,} of {self.dataset}"
        yield "top-1", percent(self.export.top1)
        yield "agreement", percent(self.agreement)
        yield from (("failure", failure) for failure in self.failures)
