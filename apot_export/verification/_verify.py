"""Verify an export: proofs on a few images, counts over all of them, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import onnx
import torch
from torch import nn

from apot_export.arguments import checked
from apot_export.artifacts.directory import (
    INTEGER_MODEL,
    ONNX_MODEL,
    PACKED_MODEL,
    check_files,
    read_manifest,
)
from apot_export.artifacts.onnx_model.probe import parse_modest_model
from apot_export.artifacts.packed import load_packed
from apot_export.errors import DeviceError
from apot_export.network import CodedNetwork
from apot_export.original import families
from apot_export.original.choices import Choices
from apot_export.runtimes.torch_runtime import explicit_settings
from apot_export.verification._options import RunOptions, StatedRun
from apot_export.verification._original import (
    Statement,
    find_original,
    is_available,
    is_gone,
    require_same_images,
    require_same_layers,
)
from apot_export.verification._run import Run
from apot_export.verification.proof.sample import compare_sample
from apot_export.verification.report import Report
from apot_export.verification.running.images import open_images
from apot_export.verification.running.processes import Processes, joined_processes
from apot_export.verification.running.shards import Progress
from apot_export.verification.running.sides import packed_executor

if TYPE_CHECKING:
    from typing_extensions import Unpack

_DEVICES = ("auto", "cuda", "cpu")


@checked(RunOptions, Choices)
def verify(
    export: str | PathLike[str],
    options: RunOptions | None = None,
    *,
    checkpoint: str | PathLike[str] | None = None,
    original: nn.Module | None = None,
    model: str | None = None,
    model_arguments: Mapping[str, Any] | None = None,
    input_shape: Sequence[int] | str | None = None,
    choices: Choices | None = None,
    progress: Progress | None = None,
    **said: Unpack[StatedRun],
) -> Report:
    """Verify an export against its PyTorch original, or one that is stated, or your own outputs.

    Without `choices` (or fields of it) the original is the one that the export's manifest records,
    by digest. With them it is the one that they describe, as `convert` would read it, whatever the
    manifest records. Where the recorded checkpoint is gone and nothing is stated, ONNX model and
    packed file are held to each other, and the best verdict is "PASS, without its original". Under
    torchrun (or in an open process group of PyTorch's) the processes share the images, and each
    returns the same report.

    Args:
        export: The export directory.
        options: Images, device and what is compared; None for the defaults.
        checkpoint: The checkpoint; None for where the manifest says it was.
        original: The network itself, in place of a checkpoint.
        model: Factory of a custom network, which is imported and called; required for an export
            that was made with one, so that no code runs unasked.
        model_arguments: Arguments of the factory; None for those that the manifest records.
        input_shape: One image of the stated original; None for the export's, or, of another
            checkpoint file, for that of its architecture.
        choices: How the stated original was trained.
        progress: Called with (what, done, total).
        **said: Fields of `RunOptions` or of `Choices`: `dataset="cifar10"`, `bits=4`, ...

    Raises:
        ApotExportError: The verification could not run. A difference is no error: see the report.
    """
    names = {field.name for field in fields(Choices)}
    named = cast("dict[str, Any]", said)
    stated = {name: named.pop(name) for name in names & set(named)}
    options = replace(options or RunOptions(), **named)
    statement = Statement(
        checkpoint=checkpoint,
        network=original,
        model=model,
        model_arguments=model_arguments,
        input_shape=input_shape,
        choices=replace(choices or Choices(), **stated) if stated else choices,
    )
    with joined_processes() as processes, explicit_settings() as flags:
        shown = progress if progress is not None and processes.first else _silent
        return _opened(Path(export), options, statement, processes, flags, shown).report()


def _modest_graph(
    directory: Path, manifest: Mapping[str, Any], packed: CodedNetwork
) -> onnx.ModelProto:
    """Look through an export's models before anything runs them; return the float one's graph."""
    names = [ONNX_MODEL, *({INTEGER_MODEL} & {*manifest["files"]})]
    paths = [directory / name for name in names]
    graph, *_ = [parse_modest_model(p.read_bytes(), packed.input_shape, str(p)) for p in paths]
    return graph


def _opened(
    directory: Path,
    options: RunOptions,
    statement: Statement,
    processes: Processes,
    flags: Mapping[str, Any],
    progress: Progress,
) -> Run:
    """Open everything that a verification needs: the export, the original and the images."""
    device = _device(options.device, processes)
    manifest = read_manifest(directory)
    progress("opening export and original", 0, 1)
    check_files(directory, manifest)
    packed = load_packed(directory / PACKED_MODEL).network
    graph = _modest_graph(directory, manifest, packed)
    alone = options.reference is not None and not (options.dataset or options.data)
    held_to = baseline = None
    without = is_gone(directory, manifest) or (alone and not is_available(directory, manifest))
    if without and statement.names_nothing:
        if not alone:
            baseline = packed_executor(directory / PACKED_MODEL, packed, torch.get_num_threads())
    else:
        held_to = find_original(directory, manifest, statement)
        require_same_images(held_to.original, packed)
        if held_to.stated:
            require_same_layers(held_to.original, packed)
    family = held_to.original.family if held_to else families.by_name(manifest["family"])
    images, reference = open_images(options, packed, family.preprocessing, alone=alone)
    positions = images.sampled(options.limit, options.seed)
    return Run(
        directory=directory,
        manifest=manifest,
        packed=packed,
        graph=graph,
        held_to=held_to,
        baseline=baseline,
        images=images.chosen(positions),
        positions=positions,
        reference=reference,
        device=device,
        processes=processes,
        sample=processes.from_first(lambda: compare_sample(directory, manifest, packed)),
        options=options,
        flags=flags,
        progress=progress,
    )


def _silent(_what: str, _done: int, _total: int) -> None:
    """Show no progress."""


def _device(device: str, processes: Processes) -> str:
    if device not in _DEVICES:
        raise DeviceError("There is no such device.", expected=", ".join(_DEVICES), got=device)
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise DeviceError(
            "CUDA was asked for, but PyTorch sees no CUDA device.",
            expected="a GPU and its driver",
            got="torch.cuda.is_available() is false",
            fix="run where a GPU is, or use --device cpu",
        )
    return f"cuda:{processes.local_rank % torch.cuda.device_count()}"
