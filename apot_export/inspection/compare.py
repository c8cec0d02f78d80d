"""Two exports side by side: codes and weights layer by layer, sizes, results on the same images."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apot_export.arguments import checked
from apot_export.artifacts.directory import PACKED_MODEL, read_manifest
from apot_export.artifacts.packed import PackedNetwork, load_packed
from apot_export.errors import DatasetError, ExportError, absence
from apot_export.inspection.cost import Cost, cost
from apot_export.inspection.thresholds import packed_file
from apot_export.network import CodedLayer, Layer
from apot_export.network.shown import Shown, percent
from apot_export.original import families

if TYPE_CHECKING:
    from apot_export.verification import Side
    from apot_export.verification.report import ComparedSide

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""


@dataclass(frozen=True, kw_only=True)
class LayerDifference:
    """The weights of one layer in two exports."""

    layer: str
    weights: int
    codes: int | None
    """Codes that differ; where codebooks differ, levels that are other shares of the threshold.
    None where either export has no codes of this layer."""
    values: int
    """Weights whose float32 values differ."""
    distance: float | None
    """Norm of the difference of all weights as a share of the first export's norm; None where that
    is 0."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What both exports name on the same images."""

    dataset: str
    root: str
    images: int
    skipped: int
    """Images that could not be read."""
    first: Side
    second: ComparedSide
    """Its agreement, flips and logit differences are with the first export."""

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        found = dataclasses.asdict(self)
        second, flips = found.pop("second"), self.second.flips
        return {
            **found,
            "second": second["side"],
            "agreement": self.second.agreement,
            "first_only": flips and flips.original_only,
            "second_only": flips and flips.export_only,
            "probability": flips and flips.probability,
            "largest_logit_difference": self.second.largest_logit_difference,
            "mean_logit_difference": self.second.mean_logit_difference,
        }


@dataclass(frozen=True, kw_only=True, repr=False)
class ExportComparison(Shown):
    """How two exports differ."""

    first: Path
    second: Path
    layers: tuple[LayerDifference, ...]
    """Of the layers that both have, in the first one's order of computation."""
    unmatched: tuple[str, ...]
    """Layers that one export alone has, or that have another shape in the other."""
    files: Mapping[str, tuple[int | None, int | None]]
    """Bytes of each file in both; None where an export has no such file."""
    costs: tuple[Cost, Cost]
    """What an image costs with each."""
    results: Results | None = None
    """None where no images were named."""

    @property
    def codes(self) -> int:
        """Codes that differ, in all layers."""
        return sum(layer.codes or 0 for layer in self.layers)

    @property
    def values(self) -> int:
        """Weights whose values differ, in all layers."""
        return sum(layer.values for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        return {
            "first": str(self.first),
            "second": str(self.second),
            "codes": self.codes,
            "values": self.values,
            "layers": [*map(dataclasses.asdict, self.layers)],
            "unmatched": list(self.unmatched),
            "files": {name: list(sizes) for name, sizes in self.files.items()},
            "costs": [dataclasses.asdict(cost.forms[0]) for cost in self.costs],
            "results": self.results and self.results.to_json(),
        }

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "first", self.first
        yield "second", self.second
        yield "weights", f"{sum(layer.weights for layer in self.layers):,}"
        yield "codes that differ", f"{self.codes:,}"
        yield "values that differ", f"{self.values:,}"
        if self.results is not None:
            yield "agreement", percent(self.results.second.agreement)


@checked()
def compare(
    first: str | PathLike[str],
    second: str | PathLike[str],
    *,
    dataset: str | None = None,
    data: str | PathLike[str] | None = None,
    images: str | PathLike[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ExportComparison:
    """Compare two exports: their codes, weights and sizes, and what they name on images.

    Both run on images where `dataset`, `data` or `images` names some; by the native kernels where
    there is a C compiler, else by the packed file's reader.

    Args:
        first: Export directory or packed file.
        second: Likewise.
        dataset: "cifar10", "imagenet", ..., or "folder"; None for the one that fits the networks.
        data: Folder of the images; None for $APOT_EXPORT_DATA or ./data.
        images: An .npz file of images in place of a dataset: see `datasets.open_arrays`.
        mean: Per channel, of pixels in [0, 1], for "folder" and for arrays of pixels.
        std: Likewise.
        limit: Use this many images, drawn from every class in proportion.
        seed: Of that drawing.
        batch_size: Images per batch; None for a size that fits the image.
        workers: Threads that decode images; None for as many as there are cores, at most 4.
        progress: Called with (what, done, total).

    Raises:
        ApotExportError: A path is no export, or the exports do not read the same images.
    """
    paths = Path(first), Path(second)
    packed = [load_packed(_packed_path(path)) for path in paths]
    one, other = (network.layers for network in packed)
    matching = [
        name for name, layer in one.items() if name in other and layer.shape == other[name].shape
    ]
    layers = tuple(_difference(one[name], other[name]) for name in matching)
    unmatched = tuple(name for name in {**one, **other} if name not in matching)
    found = ExportComparison(
        first=paths[0],
        second=paths[1],
        layers=layers,
        unmatched=unmatched,
        files=_sizes(*paths),
        costs=(cost(packed[0].network), cost(packed[1].network)),
    )
    named: dict[str, Any] = {"dataset": dataset, "data": data, "images": images}
    if all(name is None for name in named.values()):
        return found
    named |= {"mean": mean, "std": std, "limit": limit, "seed": seed}
    named |= {"batch_size": batch_size, "workers": workers}
    return dataclasses.replace(found, results=_results(paths, packed, named, progress or _silent))


def _silent(_what: str, _done: int, _total: int) -> None:
    """Show no progress."""


def _packed_path(path: Path) -> Path:
    found = packed_file(path)
    if found is None or not found.is_file():
        raise ExportError(
            "Exports are compared.",
            where=str(path),
            expected="an export's directory or a packed file (*.safetensors)",
            got=absence(path) or "another file",
            fix="check the path; apot-export convert CHECKPOINT writes an export",
        )
    return found


def _sizes(first: Path, second: Path) -> dict[str, tuple[int | None, int | None]]:
    one, other = map(_file_sizes, (first, second))
    return {name: (one.get(name), other.get(name)) for name in {**one, **other}}


def _file_sizes(path: Path) -> dict[str, int]:
    if path.is_dir():
        return {name: entry["bytes"] for name, entry in read_manifest(path)["files"].items()}
    return {PACKED_MODEL: path.stat().st_size}


def _difference(first: Layer, second: Layer) -> LayerDifference:
    one, other = first.weights(), second.weights()
    norm = float(np.linalg.norm(one.astype(np.float64)))
    return LayerDifference(
        layer=first.name,
        weights=one.size,
        codes=_differing_codes(first, second),
        values=int(np.count_nonzero(one != other)),
        distance=float(np.linalg.norm(other.astype(np.float64) - one)) / norm if norm else None,
    )


def _differing_codes(first: Layer, second: Layer) -> int | None:
    if not isinstance(first, CodedLayer) or not isinstance(second, CodedLayer):
        return None
    if first.codebook == second.codebook:
        return int(np.count_nonzero(first.codes != second.codes))
    # As fractions of their own thresholds: both sides times both denominators.
    one = first.levels().astype(np.int64) * second.codebook.denominator
    other = second.levels().astype(np.int64) * first.codebook.denominator
    return int(np.count_nonzero(one != other))


def _results(
    paths: tuple[Path, Path],
    packed: Sequence[PackedNetwork],
    named: Mapping[str, Any],
    progress: Progress,
) -> Results:
    """Run both networks on the images that fields of `RunOptions` name."""
    from apot_export.verification import RunOptions
    from apot_export.verification.running.accuracy import merge
    from apot_export.verification.running.images import open_images
    from apot_export.verification.running.shards import Sides, plan_shards, run_shards
    from apot_export.verification.running.sides import packed_executor

    options, network = RunOptions(**named), packed[0].network
    found, _ = open_images(options, network, _preprocessing(packed))
    shown = found.chosen(found.sampled(options.limit, options.seed))
    threads = os.cpu_count() or 1
    (_, one), (_, other) = (
        packed_executor(_packed_path(path), read.network, threads)
        for path, read in zip(paths, packed, strict=True)
    )
    size = options.images_of_a_batch(network.input_shape)
    shards = run_shards(
        shown,
        Sides(
            original=lambda batch: one(batch.images),
            exports={"second": other},
            twins={},
            twin_images=0,
        ),
        dict(enumerate(plan_shards(len(shown), size))),
        batch_size=size,
        workers=options.decoders,
        progress=progress,
    )
    total = merge([counts for _, counts in shards])
    if not total.images:
        raise DatasetError("No image can be read.", where=shown.root, got=total.skipped[0][1])
    return Results(
        dataset=shown.name,
        root=shown.root,
        images=total.images,
        skipped=len(total.skipped),
        first=total.original.side(total.images, labelled=shown.labelled),
        second=total.compared(labelled=shown.labelled)[0],
    )


def _preprocessing(packed: Sequence[PackedNetwork]) -> str:
    """Return how images are prepared for two networks that read and name the same.

    Raises:
        DatasetError: They do not.
    """
    reads = []
    for one in packed:
        network = one.network
        family = families.by_name(str(one.provenance.get("family")))
        facts = list(network.input_shape), list(network.shapes[network.output])
        reads.append((*facts, family.preprocessing))
    if reads[0] != reads[1]:
        says = ["images {}, outputs {}, prepared by {}".format(*facts) for facts in reads]
        raise DatasetError(
            "The two exports do not read and name the same images.",
            expected=says[0],
            got=says[1],
            fix="leave the images out: codes and sizes are compared without",
        )
    return str(reads[0][2])
