"""One verification, everything opened: proofs, counts over all images, the report."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from apot_export.artifacts.directory import ONNX_MODEL, attach_to_manifest
from apot_export.datasets import KINDS, Batch
from apot_export.errors import DatasetError, ExportError
from apot_export.original.checkpoint import Checkpoint
from apot_export.original.record import Record
from apot_export.runtimes.torch_runtime import Executor, torch_executor, twin_executors
from apot_export.verification._options import Progress, images_that_fit, parse_backends, parse_sides
from apot_export.verification._original import HeldTo, settings_of, versions
from apot_export.verification._request import Request
from apot_export.verification._verdict import (
    agreement_failures,
    backend_failures,
    baseline_failures,
    compare_record,
    note_without_original,
    record_failures,
    record_warnings,
    reference_failures,
    reference_notes,
)
from apot_export.verification.proof.proofs import Proofs
from apot_export.verification.proof.sample import SampleComparison
from apot_export.verification.proof.sides import prove_all
from apot_export.verification.report import (
    BackendComparison,
    FlippedImage,
    RecordComparison,
    ReferenceComparison,
    Report,
    SideProof,
    SkippedImage,
)
from apot_export.verification.running.accuracy import Measured, merge
from apot_export.verification.running.backends import compare_backends
from apot_export.verification.running.outputs import compare_outputs
from apot_export.verification.running.processes import Processes
from apot_export.verification.running.shards import (
    Sides,
    Unfinished,
    plan_shards,
    run_shards,
)
from apot_export.verification.running.sides import OpenedSides, open_sides, ort_device

_LEVEL_PIXELS = 64 * 3 * 32 * 32
"""Images of the level comparison, likewise; at most 64, and at least 2."""
_TWIN_PIXELS = 1000 * 3 * 32 * 32
"""Images on which the original is compared with itself, likewise; at most 1,000, at least 100."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run(Request):
    """One verification, everything opened."""

    graph: onnx.ModelProto
    """Of the float model."""
    held_to: HeldTo | None
    """None where there is no original."""
    baseline: tuple[str, Executor] | None
    """Side and executor that is compared with on images for which there are no outputs, either."""
    device: str
    processes: Processes
    sample: SampleComparison | None
    flags: Mapping[str, Any]
    progress: Progress

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The original's file, where there is one."""
        return self.held_to.original.checkpoint if self.held_to else None

    def _that_fit(self, pixels: int, least: int, most: int) -> int:
        """Return how many images have so many input values, within limits."""
        return images_that_fit(self.packed.input_shape, pixels, least, most)

    @property
    def batch_size(self) -> int:
        return self.options.images_of_a_batch(self.packed.input_shape)

    @property
    def _batches(self) -> set[int]:
        """Numbers of images in the batches of the run."""
        count = len(self.images)
        return {min(self.batch_size, count), count % self.batch_size} - {0}

    def report(self) -> Report:
        """Run everything."""
        backends = None if self.options.backends is None else parse_backends(self.options.backends)
        names = parse_sides(self.options.sides, self.device)
        sample = self._sample()
        self.progress("loading models", 0, 1)
        opened = self._opened(names, sample)
        proofs, of_sides = self._prove(opened, sample)
        measured, notes = self._measure(opened)
        integers = self._integers(backends)
        outputs = self._compare_outputs(opened)
        sides = measured.compared(labelled=self.images.labelled)
        yardsticks = tuple(measured.yardsticks.values())
        record = self._compare_record(sides[0].side.top1_hits, measured.images)
        report = Report(
            path=self.directory,
            dataset=self.images.name,
            dataset_root=self.images.root,
            images=measured.images,
            skipped=self._skipped(measured),
            data_sha256=measured.data_sha256,
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            original=measured.original.side(measured.images, labelled=self.images.labelled),
            sides=sides,
            yardsticks=yardsticks,
            flipped=self._flipped(measured),
            weights=proofs.weights,
            levels=proofs.levels,
            accumulators=proofs.accumulators,
            another_size=proofs.another_size,
            proofs=of_sides,
            placement=opened.placement(),
            exactness=opened.exactness,
            provider=opened.provider(),
            settings=self._settings(opened),
            failures=(
                *proofs.failures,
                *(self.sample.failures if self.sample else ()),
                *(failure for proof in of_sides.values() for failure in proof.failures),
                *opened.failures(),
                *agreement_failures(measured.images, sides, next(iter(yardsticks), None)),
                *(baseline_failures(measured.images, sides) if self.baseline else ()),
                *reference_failures(outputs),
                *record_failures(record),
                *backend_failures(integers),
            ),
            divergence=proofs.divergence,
            backends=integers,
            record=record,
            reference=outputs,
            sample=self.sample,
            notes=(*notes, *record_warnings(record), *reference_notes(outputs), *self._notes()),
        )
        return self._attached(report)

    def _opened(self, names: Sequence[str], sample: NDArray[np.float32]) -> OpenedSides:
        return open_sides(
            names,
            directory=self.directory,
            model=(self.directory / ONNX_MODEL).read_bytes(),
            graph=self.graph,
            packed=self.packed,
            device=self.device,
            threads=torch.get_num_threads(),
            batches={*self._batches, len(sample)},
            image=sample[:1],
        )

    def _skipped(self, measured: Measured) -> tuple[SkippedImage, ...]:
        return tuple(
            SkippedImage(name=self.images.names[index], reason=reason)
            for index, reason in measured.skipped
        )

    def _sample(self) -> NDArray[np.float32]:
        """Return a few images that can be read, for the comparison of every value."""
        few = self._that_fit(_LEVEL_PIXELS, 2, 64)
        for images in (self.images.sample(few, self.options.seed), self.images):
            for batch in images.prefetched([range(min(few, len(images)))], 0):
                if len(batch.labels):
                    return batch.images
        index, reason = batch.skipped[0]
        raise DatasetError(
            "None of the first images can be read.",
            where=f"{self.images.root}: {self.images.names[index]}",
            got=reason,
            fix="copy the images again",
        )

    def _prove(
        self, opened: OpenedSides, sample: NDArray[np.float32]
    ) -> tuple[Proofs, dict[str, SideProof]]:
        """Compare weights and values of every side; the first process does so for all."""
        module = self.held_to.original.module if self.held_to else None
        device = ort_device(opened.of_model or "ort-cpu", self.device)
        self.progress(f"levels of {len(sample)} images; next: {len(self.images)} images", 0, 1)
        return self.processes.from_first(
            lambda: prove_all(
                module, self.graph, self.packed, sample, opened, device, self._batches
            )
        )

    def _measure(self, opened: OpenedSides) -> tuple[Measured, tuple[str, ...]]:
        """Run all images on all sides; return the counts, and notes for the report."""
        original, twins = self._original()
        sides = Sides(
            original=original,
            exports=opened.executors,
            twins=twins,
            twin_images=self._that_fit(_TWIN_PIXELS, 100, 1000),
            processes=self.processes.count,
        )
        shards = plan_shards(len(self.images), self.batch_size)
        unfinished = Unfinished(self.directory, self.processes.rank, self._facts(opened))
        if not self.options.resume:
            unfinished.clear()
        # Nobody starts before everybody has read, or cleared, what an earlier run left.
        earlier = unfinished.read() if self.options.resume else {}
        finished = _united(self.processes.gather(earlier))
        missing = [number for number in range(len(shards)) if number not in finished]
        mine = missing[self.processes.rank :: self.processes.count]
        found: dict[int, Measured] = {}
        for number, counts in run_shards(
            self.images,
            sides,
            {number: shards[number] for number in mine},
            batch_size=self.batch_size,
            workers=self.options.decoders,
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
        lost = "the run could not have been resumed: its shards were not kept"
        return total, () if unfinished.kept else (lost,)

    def _original(self) -> tuple[Callable[[Batch], NDArray[np.float32]], dict[str, Executor]]:
        """Return what the sides are compared with, and the same computed in other ways."""
        if self.held_to is not None:
            module = self.held_to.original.module.to(self.device)
            run = torch_executor(module, self.device)
            return lambda batch: run(batch.images), twin_executors(module, self.device)
        if self.baseline is not None:
            _, packed = self.baseline
            return lambda batch: packed(batch.images), {}
        logits = np.asarray(self.reference.logits if self.reference else None, dtype=np.float32)
        return lambda batch: logits[self.positions[batch.indices]], {}

    def _facts(self, opened: OpenedSides) -> dict[str, Any]:
        """Return what tells this run from others: everything that its counts depend on."""
        return {
            "files": self.manifest["files"],
            "original": self.held_to.to_json() if self.held_to else None,
            "arrays": [
                hashlib.sha256(Path(file).read_bytes()).hexdigest()
                for file in (self.options.images, self.options.reference)
                if file is not None
            ],
            "images": [self.images.name, self.images.root, list(self.images.names)],
            "labels": hashlib.sha256(self.images.labels.tobytes()).hexdigest(),
            "mean_and_std": [self.options.mean, self.options.std],
            "batch_size": self.batch_size,
            "device": self.device.partition(":")[0],
            "sides": list(opened.executors),
            "versions": versions(),
        }

    def _compare_record(self, hits: int | None, images: int) -> RecordComparison | None:
        """Compare an accuracy on the network's own dataset with what the checkpoint records."""
        record = self.checkpoint.record if self.checkpoint else None
        if self.held_to is None:
            record = Record.of_json(self.manifest.get("record"))
        if record is None or hits is None or self.images.name not in {kind.name for kind in KINDS}:
            return None
        return compare_record(record, hits, images, ignored=self.options.ignore_record)

    def _notes(self) -> Iterator[str]:
        """Yield what this run cannot show."""
        if self.checkpoint and self.checkpoint.record_note:
            yield self.checkpoint.record_note
        if self.held_to is None:
            yield note_without_original(self.manifest, is_gone=self.baseline is not None)

    def _compare_outputs(self, opened: OpenedSides) -> ReferenceComparison | None:
        """Compare the export with the user's outputs, if there are any."""
        reference, original = self.reference, None
        if reference is None:
            return None
        if self.held_to is not None:
            original = torch_executor(self.held_to.original.module, self.device)
        export = next(iter(opened.executors.values()))
        return self.processes.from_first(
            lambda: compare_outputs(reference, export, original, self.batch_size)
        )

    def _integers(self, backends: Sequence[str] | None) -> BackendComparison | None:
        """Compare the integer network's backends, if that is wanted."""
        if backends is None:
            return None
        return self.processes.from_first(
            lambda: compare_backends(
                self.directory,
                self.manifest,
                self.packed,
                backends,
                self.images,
                self.batch_size,
                self.progress,
            )
        )

    def _flipped(self, measured: Measured) -> tuple[FlippedImage, ...]:
        names = self.images.classes

        def named(index: int) -> str:
            return str(index) if names is None else f"{names[index]} ({index})"

        return tuple(
            FlippedImage(
                name=self.images.names[index],
                label=named(int(self.images.labels[index])) if self.images.labelled else None,
                original=named(original),
                export=named(export),
                pixels=self.images.picture(self.images.load(index)),
            )
            for index, original, export in measured.flipped
        )

    def _settings(self, opened: OpenedSides) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "device": self.device.partition(":")[0],
            "batch_size": self.batch_size,
            "limit": self.options.limit,
            "seed": self.options.seed,
            **settings_of(self.held_to, self.manifest),
            **({"baseline": self.baseline[0]} if self.baseline else {}),
            "assumptions": self.manifest.get("assumptions"),
            **self.flags,
            **versions(),
            "torch_threads": torch.get_num_threads(),
            "provider_options": opened.options.get(next(iter(opened.executors)), {}),
            "side_options": opened.options,
            "workers": self.options.decoders,
            "processes": self.processes.count,
            "machine": platform.machine(),
            "system": platform.system(),
        }
        if self.device != "cpu":
            settings["gpu"] = torch.cuda.get_device_name(self.device)
        return settings

    def _attached(self, report: Report) -> Report:
        """Write the verdict into the manifest, if the directory can be written."""
        if not (self.options.attach and self.processes.first):
            return report
        try:
            attach_to_manifest(self.directory, self.manifest, report.verdict_to_json())
        except ExportError as error:
            note = f"the verdict is not in the manifest: {error.got}"
            return replace(report, notes=(*report.notes, note))
        return report


def _united(found: Sequence[Mapping[int, Measured]]) -> dict[int, Measured]:
    return {number: counts for one in found for number, counts in one.items()}
