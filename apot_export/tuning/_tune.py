"""Race the models of an export's targets, and write the fastest into the export."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from apot_export._version import VERSION
from apot_export.arguments import checked
from apot_export.artifacts.directory import (
    ONNX_MODEL,
    PACKED_MODEL,
    check_files,
    found_from,
    of_another_model,
    read_manifest,
    require_free,
    write_export,
)
from apot_export.artifacts.onnx_model import build_model, model_file
from apot_export.artifacts.onnx_model.lowering import CPU, CUDA, OPENVINO, PORTABLE
from apot_export.artifacts.onnx_model.probe import (
    integers_as_such,
    parse_model,
    takes_any_size,
    with_outputs,
)
from apot_export.artifacts.packed import load_packed
from apot_export.errors import ExportError, KernelError, TuningError
from apot_export.network import CodedNetwork
from apot_export.network.comparison import compare_oracle
from apot_export.network.shown import Shown
from apot_export.runtimes.deployment import Deployment, Logits, gpu_name, processor_name
from apot_export.tuning._race import BEFORE, COPY, Clock, Progress, race

NATIVE = "native"
"""Name of the native kernels, which run the packed file and have no ONNX model."""

_TARGETS = {
    ("onnxruntime", "cpu"): (CPU, PORTABLE),
    ("onnxruntime", "cuda"): (CUDA, PORTABLE),
    # Integer matrix products, which `cpu` is made of, OpenVINO computes without fast kernels.
    ("openvino", "cpu"): (OPENVINO, PORTABLE),
}
"""Targets that may be the fastest, by runtime and device."""
_UNRECORDED = ("path", "target", "written", "integers", "verification_dropped", "seconds")
"""Fields of a result that the manifest does not repeat."""
_ORACLE_IMAGES = 2
_LOGIT_PIXELS = 8 * 3 * 224 * 224
_MOST_LOGIT_IMAGES = 32
_MOST_APART = 0.1
"""Share of the largest logit. Levels that float rounding moves change logits by less, kernels that
compute something else by more."""


@dataclass(frozen=True, kw_only=True, repr=False)
class TuningResult(Shown):
    """What was measured, and whether a faster model was written."""

    path: Path
    """The export directory with the fastest model."""
    runtime: str
    """Either "onnxruntime" or "openvino"."""
    runtime_version: str
    device: str
    cpu: str
    """Name of the processor."""
    gpu: str | None
    threads: int
    """Of one inference; 0 for the runtime's choice."""
    batch: int
    """Images in every batch."""
    target: str
    """Target of the fastest model, the one that was there left aside."""
    written: bool
    """Whether that model was faster by more than noise, and written; else nothing changed."""
    ratio: float
    """How many times as fast as the model that was there it is."""
    noise: float
    """How far from 1 this ratio must lie to mean anything."""
    ratios: Mapping[str, float]
    """The same ratio of all that raced: "before", targets, and "native" for the native kernels."""
    milliseconds: Mapping[str, float]
    """Median time of a batch, likewise."""
    rounds: int
    """Rounds of the race."""
    integers: int
    """Levels and accumulators that were compared with the oracle's; 0 where nothing was written."""
    verification_dropped: bool
    """Whether the manifest held a verdict, of the model that was replaced."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        return {**asdict(self), "path": str(self.path)}

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "path", self.path
        yield "fastest target", self.target
        yield "ratio", f"{self.ratio:.3g} times as fast, noise {self.noise:.1%}"
        yield "written", self.written
        yield "runtime", f"{self.runtime} {self.runtime_version} on {self.device}"


@checked()
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
    """Measure which target's model is fastest on this machine, and write it into the export.

    Its values and integers are those of the model that was there; only the bodies of functions
    differ. It is written if it is faster by more than noise. On a CPU the native kernels race, too:
    they are reported only, since they run the packed file and need no ONNX model.

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
    if not seconds > 0:
        raise TuningError("Measuring takes time.", expected="seconds > 0", got=f"{seconds}")
    return tune_for(
        Deployment(runtime=runtime, device=device, threads=threads, batch=batch),
        Path(export),
        seconds=seconds,
        output=None if output is None else Path(output),
        force=force,
        progress=progress or (lambda _what, _done, _total: None),
    )


def tune_for(
    deployment: Deployment,
    directory: Path,
    *,
    seconds: float,
    output: Path | None,
    force: bool,
    progress: Progress,
    clock: Clock = time.perf_counter,
) -> TuningResult:
    """Tune for a deployment, as `tune` does, by the time that a clock tells."""
    began, manifest = clock(), read_manifest(directory)
    check_files(directory, manifest)
    files = {name: (directory / name).read_bytes() for name in manifest["files"]}
    folder, replace = output or Path(os.path.realpath(directory)), force or output is None
    _require_writable(folder, replace=replace)
    present = parse_model(files[ONNX_MODEL])
    _require_one_size(present, directory)
    version = deployment.version()
    network = load_packed(directory / PACKED_MODEL).network
    progress("loading models", 0, 1)
    deployment = deployment.keeping(files[ONNX_MODEL], network)
    models = _models(network, present, deployment)
    runs = _loaded(network, files[ONNX_MODEL], models, deployment)
    images = _random_images(network, deployment.batch)
    batches = {name: partial(run, images) for name, run in runs.items()}
    found = race(batches, [n for n in models if n in runs], clock, began + seconds, progress)
    target, written = found.fastest, found.ratio(found.fastest) > 1 + found.noise
    integers = 0
    if written:
        progress("comparing with the oracle", 0, 1)
        integers = _require_oracles_integers(network, parse_model(models[target]), deployment)
        _require_same_logits(network, runs[BEFORE], runs[target], deployment.batch)
    result = TuningResult(
        path=output or directory,
        runtime=deployment.runtime,
        runtime_version=version,
        device=deployment.device,
        cpu=processor_name(),
        gpu=gpu_name() if deployment.device == "cuda" else None,
        threads=deployment.threads,
        batch=deployment.batch,
        target=target,
        written=written,
        ratio=found.ratio(target),
        noise=found.noise,
        ratios=found.ratios,
        milliseconds=found.milliseconds,
        rounds=found.rounds,
        integers=integers,
        verification_dropped=written and "verification" in manifest,
        seconds=clock() - began,
    )
    if written:
        files[ONNX_MODEL], manifest = models[target], _tuned(manifest, result)
    if output is not None:
        manifest["checkpoint"] = found_from(output, directory, manifest["checkpoint"])
    if written or output is not None:
        write_export(folder, files, manifest, force=replace)
    return result


def _require_writable(folder: Path, *, replace: bool) -> None:
    """Raise `ExportError` where nothing can be written, before minutes are spent on it."""
    require_free(folder, force=replace)
    parent = next(parent for parent in folder.absolute().parents if parent.is_dir())
    if not os.access(parent, os.W_OK):
        raise ExportError(
            "The export cannot be written: it is made beside the old one, then put in its place.",
            where=str(parent),
            expected="a folder that can be written",
            fix="choose another place with -o",
        )


def _require_one_size(model: onnx.ModelProto, directory: Path) -> None:
    """Raise `TuningError` for a model of dynamic size: tuned ones are made for one size."""
    if takes_any_size(model):
        raise TuningError(
            "The fastest models are made for images of one size.",
            where=str(directory),
            expected="a model of fixed size",
            got="a model of dynamic size",
            fix=f"tune one of fixed size: apot-export convert {directory} -o {directory}_fixed",
        )


def _models(
    network: CodedNetwork, present: onnx.ModelProto, deployment: Deployment
) -> dict[str, bytes]:
    """Return the files that may be the fastest, by target; name and provenance are the old ones."""
    kept = ("apot_export", "interface")
    metadata = {p.key: p.value for p in present.metadata_props if p.key in kept}
    files = {}
    for target in _TARGETS[deployment.runtime, deployment.device]:
        model = build_model(
            network,
            name=present.graph.name,
            tool=f"apot-export {VERSION}",
            metadata=metadata,
            target=target,
        )
        files[target] = model_file(model, network, target)
    return files


def _loaded(
    network: CodedNetwork,
    present: bytes,
    models: Mapping[str, bytes],
    deployment: Deployment,
) -> dict[str, Logits]:
    """Load the model that is there and a copy, those of targets, and the native kernels.

    Raises:
        ExportError: The runtime refuses every model.
    """
    images = _random_images(network, deployment.batch)
    loaded = {name: deployment.open(present) for name in (BEFORE, COPY)}
    refusals: list[ExportError] = []
    for target, model in models.items():
        try:
            run = deployment.open(model)
            run(images)
        except ExportError as error:  # noqa: PERF203 - of two models
            refusals.append(error)
        else:
            loaded[target] = run
    if len(refusals) == len(models):
        raise refusals[0]
    if deployment.device == "cpu":
        with suppress(KernelError):  # no C compiler, or a network that the kernels do not run
            loaded[NATIVE] = deployment.open_native(network)
    return loaded


def _random_images(network: CodedNetwork, count: int, seed: int = 0) -> NDArray[np.float32]:
    """Return normally distributed images, float32 [count, C, H, W]."""
    shape = (count, *network.input_shape)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _require_oracles_integers(
    network: CodedNetwork, model: onnx.ModelProto, deployment: Deployment
) -> int:
    """Compare every value of a few images with the oracle's; return how many integers there were.

    Raises:
        TuningError: A level or accumulator differs, or a float by more than rounding.
    """
    images = _random_images(network, _ORACLE_IMAGES)
    values = integers_as_such(network, deployment.values(with_outputs(model), images))
    found = compare_oracle(network, images, values)
    if found.mismatches or found.values_outside:
        raise TuningError(
            "The tuned model does not compute the network; nothing was written.",
            where="; ".join(found.offenders),
            expected="every integer of the oracle",
            got=f"{found.mismatches:,} of {found.compared:,} integers and {found.values_outside:,} "
            f"of {found.values_compared:,} floats differ",
            fix="report this with the names and versions of processor and runtime",
        )
    return found.compared


def _require_same_logits(network: CodedNetwork, before: Logits, tuned: Logits, batch: int) -> None:
    """Compare the logits of the model as it will run with those of the model that was there.

    Runtimes fuse values that are not asked for, so a model with every value as an output is not
    quite the one that is timed.

    Raises:
        TuningError: The logits of most images are far apart.
    """
    fitting = _LOGIT_PIXELS // math.prod(network.input_shape)
    batches = max(1, -(-min(_MOST_LOGIT_IMAGES, fitting) // batch))
    apart: list[float] = []
    for seed in range(batches):
        images = _random_images(network, batch, seed)
        first, second = before(images), tuned(images)
        largest = np.maximum(np.abs(first).max(axis=1), 1e-30)
        apart += (np.abs(first - second).max(axis=1) / largest).tolist()
    typical = float(np.median(apart))
    if not typical <= _MOST_APART:  # NaN, too
        raise TuningError(
            "The tuned model's logits are not those of the model that is there; "
            "nothing was written.",
            expected=f"a median difference of at most {_MOST_APART:.0%} of the largest logit",
            got=f"{typical:.1%}",
            fix="verify the export: apot-export verify",
        )


def _tuned(manifest: Mapping[str, Any], result: TuningResult) -> dict[str, Any]:
    """Return the manifest with how its model was chosen, without the verdict on the old model."""
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    measured = {k: v for k, v in result.to_json().items() if k not in _UNRECORDED}
    kept = of_another_model(manifest, {"target": result.target})
    return {**kept, "tuning": {"date": date, **measured}}
