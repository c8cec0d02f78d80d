"""One verification, everything opened: proofs, counts over all images, the report."""

from __future__ import annotations

import hashlib
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from apot_export._version import VERSION
from apot_export.artifacts.directory import ONNX_MODEL, attach_to_manifest
from apot_export.artifacts.onnx_model.probe import parse_model, tf32_exact
from apot_export.datasets import Dataset
from apot_export.errors import DatasetError, ExportError
from apot_export.network import CodedNetwork
from apot_export.original.choices import Choices
from apot_export.original.original import Original
from apot_export.runtimes.torch_runtime import torch_executor, twin_executors
from apot_export.verification._verdict import agreement_failures, backend_failures
from apot_export.verification.proof.proofs import Proofs, prove_export
from apot_export.verification.report import BackendComparison, FlippedImage, Report, SkippedImage
from apot_export.verification.running.accuracy import Measured, merge
from apot_export.verification.running.backends import compare_backends, parse_backends
from apot_export.verification.running.processes import Processes
from apot_export.verification.running.shards import Progress, Sides, plan_shards, run_shards
from apot_export.verification.running.sides import OpenedSides, open_sides, ort_device, parse_sides
from apot_export.verification.running.unfinished import Unfinished, key_of

_BATCH_PIXELS = 16 * 3 * 224 * 224
"""Default batch: as many images as have this many input values, at most 100. The original quantizes
its weights again for every batch, so small ones cost most of the time."""
_LEVEL_PIXELS = 64 * 3 * 32 * 32
"""Images of the level comparison, likewise; at most 64, and at least 2."""
_TWIN_PIXELS = 1000 * 3 * 32 * 32
"""Images on which the original is compared with itself, likewise; at most 1,000, at least 100."""
_MOST_WORKERS = 4


@dataclass(frozen=True, kw_only=True)
class RunChoices:
    """What a user said of how to run."""

    mean: Sequence[float] | None
    std: Sequence[float] | None
    limit: int | None
    seed: int
    batch_size: int | None
    workers: int | None
    sides: str | None
    backends: str | None
    resume: bool
    attach: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One verification, everything opened."""

    directory: Path
    manifest: Mapping[str, Any]
    packed: CodedNetwork
    source: Original
    images: Dataset
    device: str
    processes: Processes
    choices: RunChoices
    flags: Mapping[str, Any]
    progress: Progress

    @property
    def batch_size(self) -> int:
        pixels = math.prod(self.packed.input_shape)
        return self.choices.batch_size or max(1, min(100, _BATCH_PIXELS // pixels))

    @property
    def workers(self) -> int:
        if self.choices.workers is not None:
            return self.choices.workers
        return min(_MOST_WORKERS, os.cpu_count() or 1)

    def report(self) -> Report:
        """Run everything."""
        compared = None if self.choices.backends is None else parse_backends(self.choices.backends)
        names = parse_sides(self.choices.sides, self.device)
        model = (self.directory / ONNX_MODEL).read_bytes()
        sample = self._sample()
        graph = parse_model(model)
        proofs = self._prove(graph, names, sample)
        opened = open_sides(
            names,
            directory=self.directory,
            model=model,
            packed=self.packed,
            device=self.device,
            threads=torch.get_num_threads(),
            tf32=tf32_exact(graph),
            image=sample[:1],
        )
        measured, notes = self._measure(opened)
        integers = self._integers(compared)
        sides = measured.compared()
        yardsticks = measured.compared_yardsticks()
        report = Report(
            path=self.directory,
            dataset=self.images.name,
            dataset_root=self.images.root,
            images=measured.images,
            skipped=tuple(
                SkippedImage(name=self.images.names[index], reason=reason)
                for index, reason in measured.skipped
            ),
            data_sha256=measured.data_sha256,
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            original=measured.original.side(measured.images),
            sides=sides,
            yardsticks=yardsticks,
            flipped=self._flipped(measured),
            weights=proofs.weights,
            levels=proofs.levels,
            accumulators=proofs.accumulators,
            placement={
                provider: count
                for _, placement in opened.placements.values()
                for provider, count in placement.counts().items()
            },
            provider=opened.provider(),
            settings=self._settings(opened),
            failures=(
                *proofs.failures,
                *opened.strays(),
                *agreement_failures(measured.images, sides, yardsticks[0]),
                *backend_failures(integers),
            ),
            divergence=proofs.divergence,
            backends=integers,
            notes=tuple(notes),
        )
        return self._attached(report)

    def _sample(self) -> NDArray[np.float32]:
        """Return images for the comparison of every value: such as can be read."""
        pixels = math.prod(self.packed.input_shape)
        few = max(2, min(64, _LEVEL_PIXELS // pixels))
        chosen = self.images.sample(few, self.choices.seed)
        for images in (chosen, self.images):
            for batch in images.prefetched([range(min(few, len(images)))], 0):
                if len(batch.labels):
                    return batch.images
        reason = batch.skipped[0]
        raise DatasetError(
            "None of the first images can be read.",
            where=f"{self.images.root}: {self.images.names[reason[0]]}",
            got=reason[1],
            fix="copy the images again",
        )

    def _prove(
        self, graph: onnx.ModelProto, names: Sequence[str], sample: NDArray[np.float32]
    ) -> Proofs:
        found: Proofs | None = None
        if self.processes.first:
            self.progress("levels", 0, 1)
            first = next((name for name in names if name.startswith("ort-")), "ort-cpu")
            device = ort_device(first, self.device)
            found = prove_export(self.source.module, graph, self.packed, sample, device)
            self.progress("levels", 1, 1)
        (proofs,) = (one for one in self.processes.gather(found) if one is not None)
        return proofs

    def _measure(self, opened: OpenedSides) -> tuple[Measured, list[str]]:
        module = self.source.module.to(self.device)
        pixels = math.prod(self.packed.input_shape)
        sides = Sides(
            original=torch_executor(module, self.device),
            exports=opened.executors,
            twins=twin_executors(module, self.device),
            twin_images=max(100, min(1000, _TWIN_PIXELS // pixels)),
            processes=self.processes.count,
        )
        shards = plan_shards(len(self.images), self.batch_size)
        unfinished = Unfinished(self.directory, self.processes.rank, self._key(opened))
        if not self.choices.resume:
            unfinished.clear()
        # Nobody starts before everybody has read, or cleared, what an earlier run left.
        earlier = unfinished.read() if self.choices.resume else {}
        finished = _united(self.processes.gather(earlier))
        missing = [number for number in range(len(shards)) if number not in finished]
        mine = missing[self.processes.rank :: self.processes.count]
        found: dict[int, Measured] = {}
        for number, counts in run_shards(
            self.images,
            sides,
            {number: shards[number] for number in mine},
            batch_size=self.batch_size,
            workers=self.workers,
            progress=self.progress,
        ):
            found[number] = counts
            unfinished.add(number, counts)
        finished |= _united(self.processes.gather(found))
        unfinished.clear()
        total = merge([finished[number] for number in range(len(shards))])
        if total.images == 0:
            raise DatasetError(
                "No image can be read.", where=self.images.root, got=total.skipped[0][1]
            )
        notes = (
            []
            if unfinished.kept
            else ["the run could not have been resumed: its shards were not kept"]
        )
        return total, notes

    def _key(self, opened: OpenedSides) -> str:
        """Return what tells this run from others: everything that its counts depend on."""
        return key_of(
            {
                "files": self.manifest["files"],
                "checkpoint": self.manifest["checkpoint"]["sha256"],
                "state": self.manifest.get("state_sha256"),
                "images": [self.images.name, self.images.root, list(self.images.names)],
                "labels": hashlib.sha256(self.images.labels.tobytes()).hexdigest(),
                "mean_and_std": [self.choices.mean, self.choices.std],
                "batch_size": self.batch_size,
                "device": self.device.partition(":")[0],
                "sides": list(opened.executors),
                "versions": _versions(),
            }
        )

    def _integers(self, compared: Sequence[str] | None) -> BackendComparison | None:
        if compared is None:
            return None
        found = None
        if self.processes.first:
            found = compare_backends(
                self.directory,
                self.manifest,
                self.packed,
                compared,
                self.images,
                self.batch_size,
                self.progress,
            )
        return self.processes.gather(found)[0]

    def _flipped(self, measured: Measured) -> tuple[FlippedImage, ...]:
        names = self.images.classes

        def named(index: int) -> str:
            return str(index) if names is None else f"{names[index]} ({index})"

        return tuple(
            FlippedImage(
                name=self.images.names[index],
                label=named(int(self.images.labels[index])),
                original=named(original),
                export=named(export),
                pixels=self.images.picture(self.images.load(index)),
            )
            for index, original, export in measured.flipped
        )

    def _settings(self, opened: OpenedSides) -> dict[str, Any]:
        quantization = self.source.quantization
        first = next(iter(opened.executors))
        settings: dict[str, Any] = {
            "device": self.device.partition(":")[0],
            "batch_size": self.batch_size,
            "limit": self.choices.limit,
            "seed": self.choices.seed,
            "bits": quantization.weight_bits,
            "method": quantization.method,
            "family": self.source.family.name,
            "alpha_terms": self.source.alpha_terms,
            "unsigned_zeros": Choices.of_json(self.manifest["choices"]).unsigned_zeros,
            "architecture": self.source.architecture.name,
            **self.flags,
            **_versions(),
            "torch_threads": torch.get_num_threads(),
            "provider_options": opened.options.get(first, {}),
            "side_options": opened.options,
            "workers": self.workers,
            "processes": self.processes.count,
            "machine": platform.machine(),
            "system": platform.system(),
        }
        if self.device != "cpu":
            settings["gpu"] = torch.cuda.get_device_name(self.device)
        return settings

    def _attached(self, report: Report) -> Report:
        """Write the verdict into the manifest, if the directory can be written."""
        if self.choices.attach and self.processes.first:
            try:
                attach_to_manifest(self.directory, "verification", report.verdict_to_json())
            except ExportError as error:
                note = f"the verdict is not in the manifest: {error.got}"
                return replace(report, notes=(*report.notes, note))
        return report


def _united(found: Sequence[Mapping[int, Measured]]) -> dict[int, Measured]:
    return {number: counts for one in found for number, counts in one.items()}


def _versions() -> dict[str, str]:
    import onnxruntime
    import torchvision

    return {
        "apot_export": VERSION,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }
