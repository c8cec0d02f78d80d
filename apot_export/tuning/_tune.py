"""From an export directory to the same one with the fastest bodies."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import onnx

from apot_export._version import VERSION
from apot_export.artifacts.directory import ONNX_MODEL, PACKED_MODEL, check_files, read_manifest
from apot_export.artifacts.onnx_model import build_model, serialise
from apot_export.artifacts.packed import load_packed
from apot_export.errors import TuningError
from apot_export.network import CodedNetwork
from apot_export.runtimes.deployment import Logits, Place, gpu_name, processor_name, require_place
from apot_export.tuning._check import (
    random_images,
    require_oracles_integers,
    require_same_logits,
)
from apot_export.tuning._directory import Export, require_writable, write_tuned
from apot_export.tuning._groups import Group, Plan, group_layers, lowerings_for, targets_for
from apot_export.tuning._race import MOST, Clock, Noise, Run, race, ratios
from apot_export.tuning._result import GroupResult, TuningResult
from apot_export.tuning._search import Found, Progress, compared_with, search

_SEARCH_SHARE = 0.75
"""Of the time; the last race has the rest."""
_BEFORE = "before"
_TUNED = "tuned"


def tune(
    export: str | PathLike[str],
    *,
    runtime: str = "onnxruntime",
    device: str = "cpu",
    threads: int = 0,
    batch: int = 1,
    seconds: float = 60.0,
    output: str | PathLike[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> TuningResult:
    """Measure which lowering of each layer is fastest on this machine, and write the winners.

    The graph, its values and every integer stay the same; only the bodies of functions change.
    Whatever is written is faster than the model that was there, by more than the noise.

    Args:
        export: The export directory.
        runtime: What will run the model: "onnxruntime" or "openvino".
        device: "cpu" or, for ONNX Runtime, "cuda".
        threads: Of one inference; 0 for the runtime's choice.
        batch: Images in every batch.
        seconds: Time to measure, about.
        output: Directory to write to; None for the export itself.
        force: Replace an earlier export in `output`.
        progress: Called with (what, done, total).

    Raises:
        ApotExportError: With what is wrong; nothing is left half-written.
    """
    return tune_at(
        Path(export),
        require_place(runtime, device, threads, batch),
        seconds=seconds,
        output=None if output is None else Path(output),
        force=force,
        progress=progress or _silent,
        clock=time.perf_counter,
    )


def tune_at(
    directory: Path,
    place: Place,
    *,
    seconds: float,
    output: Path | None,
    force: bool,
    progress: Progress,
    clock: Clock,
) -> TuningResult:
    """Tune for a place, as `tune` does, by the time that a clock tells."""
    began = clock()
    if not seconds > 0:
        raise TuningError("Measuring takes time.", expected="seconds > 0", got=f"{seconds}")
    manifest = read_manifest(directory)
    check_files(directory, manifest)
    export = Export(
        directory=directory,
        manifest=manifest,
        files={name: (directory / name).read_bytes() for name in manifest["files"]},
    )
    require_writable(export, output, force=force)
    version = place.version()
    from apot_export.artifacts.onnx_model.probe import parse_model

    workbench = _Workbench(
        network=load_packed(directory / PACKED_MODEL).network,
        present=parse_model(export.files[ONNX_MODEL]),
        place=place,
    )
    before = place.open(export.files[ONNX_MODEL])
    groups = group_layers(workbench.network, lowerings_for(place.runtime, place.device))
    found = search(
        groups,
        targets_for(place.runtime, place.device),
        lambda plan: workbench.run_of(workbench.open(plan)),
        clock,
        began + _SEARCH_SHARE * seconds,
        progress,
    )
    final = _last_race(workbench, before, found, clock, began + seconds)
    written = final.ratio > 1 + final.margin
    integers = 0
    if written:
        progress("comparing with the oracle", 0, 1)
        model = workbench.model(final.plan)
        integers = require_oracles_integers(workbench.network, model, place)
        tuned = place.open(serialise(model))
        require_same_logits(workbench.network, before, tuned, place.batch)
    result = TuningResult(
        path=directory if output is None else output,
        place=place,
        version=version,
        cpu=processor_name(),
        gpu=gpu_name() if place.device == "cuda" else None,
        written=written,
        ratio=final.ratio,
        noise=final.margin,
        ratios=final.ratios,
        milliseconds=final.milliseconds,
        groups=tuple(_result_of(group, final.plan, found) for group in groups),
        trials=len(found.trials),
        complete=found.complete,
        integers=integers,
        verification_dropped=written and "verification" in manifest,
        seconds=clock() - began,
    )
    write_tuned(export, output, serialise(model) if written else None, result, force=force)
    return result


def _result_of(group: Group, plan: Plan, found: Found) -> GroupResult:
    lowering = plan.of(group.layers[0])
    trials = [trial for trial in found.trials if trial.layers == group.layers]
    return GroupResult(
        layers=group.layers,
        kind=group.kind,
        candidates=group.candidates,
        lowering=lowering,
        others=compared_with(group.same_as[lowering], trials),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Workbench:
    """Makes the models of plans."""

    network: CodedNetwork
    present: onnx.ModelProto
    """The model that is there; its names and provenance stay."""
    place: Place

    def model(self, plan: Plan) -> onnx.ModelProto:
        metadata = {entry.key: entry.value for entry in self.present.metadata_props}
        return build_model(
            self.network,
            name=self.present.graph.name,
            tool=f"apot-export {VERSION}",
            metadata={key: metadata[key] for key in ("apot_export",) if key in metadata},
            target=plan.target,
            lowerings=plan.lowerings,
        )

    def open(self, plan: Plan) -> Logits:
        return self.place.open(serialise(self.model(plan)))

    def run_of(self, logits: Logits) -> Run:
        images = random_images(self.network, self.place.batch)
        return lambda: logits(images)


@dataclass(frozen=True, kw_only=True)
class _Final:
    """The last race: the model that was there, the tuned one, and whole targets."""

    plan: Plan
    """Of the fastest but the one that was there."""
    ratio: float
    margin: float
    ratios: Mapping[str, float]
    milliseconds: Mapping[str, float]


def _last_race(
    workbench: _Workbench, before: Logits, found: Found, clock: Clock, until: float
) -> _Final:
    plans = {_TUNED: found.plan} if found.plan.lowerings else {}
    plans |= {target: Plan(target=target) for target in found.targets}
    runs = [workbench.run_of(before)]
    runs += [workbench.run_of(workbench.open(plan)) for plan in plans.values()]
    times = race(
        runs,
        clock,
        until,
        rounds=MOST,
        decided=lambda times: _is_decided(times, found.noise),
    )
    by_round = dict(zip(plans, _against_first(times), strict=True))
    medians = {name: statistics.median(values) for name, values in by_round.items()}
    best = max(medians, key=medians.__getitem__)
    return _Final(
        plan=plans[best],
        ratio=medians[best],
        margin=found.noise.margin(by_round[best]),
        ratios={_BEFORE: 1.0, **medians},
        milliseconds={
            name: 1000 * statistics.median(own)
            for name, own in zip((_BEFORE, *plans), times, strict=True)
        },
    )


def _against_first(times: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return by round how many times as fast as the first one the others were."""
    first, *others = times
    return [ratios(first, own) for own in others]


def _is_decided(times: Sequence[Sequence[float]], noise: Noise) -> bool:
    """Return whether the fastest is faster than the first by more than noise."""
    best = max(_against_first(times), key=statistics.median)
    return statistics.median(best) > 1 + noise.margin(best)


def _silent(_what: str, _done: int, _total: int) -> None:
    """Show no progress."""
