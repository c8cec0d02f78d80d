"""The verdict: original, export and oracle on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from apot_export.artifacts.directory import PACKED_MODEL, check_files, read_manifest
from apot_export.artifacts.packed import load_packed
from apot_export.datasets import open_dataset
from apot_export.errors import DeviceError
from apot_export.runtimes.torch_runtime import explicit_settings
from apot_export.verification._rebuild import rebuild_original
from apot_export.verification._run import Run, RunChoices
from apot_export.verification.report import Report
from apot_export.verification.running.processes import Processes, joined_processes
from apot_export.verification.running.shards import Progress

_DEVICES = ("auto", "cuda", "cpu")


def verify(
    export: str | PathLike[str],
    *,
    dataset: str | None = None,
    data: str | PathLike[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    checkpoint: str | PathLike[str] | None = None,
    model: str | None = None,
    original: nn.Module | None = None,
    device: str = "auto",
    limit: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    workers: int | None = None,
    sides: str | None = None,
    backends: str | None = None,
    resume: bool = False,
    attach: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Verify an export against the PyTorch original.

    Under torchrun (or in an open process group of PyTorch's) the processes share the images, and
    each returns the same report.

    Args:
        export: The export directory.
        dataset: "cifar10", "cifar100", "mnist", "imagenet", "digits" or "folder"; None for the one
            that fits the network.
        data: Folder of the images; None for $APOT_EXPORT_DATA or ./data.
        mean: Per channel, of pixels in [0, 1], for "folder".
        std: Likewise.
        checkpoint: The checkpoint; None for where the manifest says it was.
        model: Factory of a network of the user's own, which is imported and called; needed again
            where the export was made with one, so that no code runs unasked.
        original: The network itself, where the export was made from one.
        device: "auto", "cuda" or "cpu", for the original and for "ort".
        limit: Use this many images, drawn from every class in proportion.
        seed: Of that drawing.
        batch_size: Images per batch; None for a size that fits the image.
        workers: Threads that decode images ahead; None for as many as there are cores, at most 4.
        sides: Of ort, ort-cpu, ort-cuda, openvino, native, oracle and packed, separated by commas:
            what is compared with the original; the first one is the export of the verdict. None:
            ort.
        backends: Of numpy, ort-cpu, ort-cuda and c, separated by commas: run the integer network on
            these and compare every bit of its logits; None: leave it alone.
        resume: Go on from the finished shards of an interrupted run of the same kind.
        attach: Write the verdict into the export's manifest.
        progress: Called with (what, done, total).

    Raises:
        ApotExportError: The verification could not run. A difference is no error: see the report.
    """
    choices = RunChoices(
        mean=mean,
        std=std,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        workers=workers,
        sides=sides,
        backends=backends,
        resume=resume,
        attach=attach,
    )
    directory = Path(export)
    with joined_processes() as processes, explicit_settings() as flags:
        chosen = _device(device, processes)
        manifest = read_manifest(directory)
        check_files(directory, manifest)
        packed = load_packed(directory / PACKED_MODEL).network
        source = rebuild_original(directory, manifest, checkpoint, model, original)
        images = open_dataset(
            dataset,
            input_shape=packed.input_shape,
            classes=packed.shapes[packed.output][0],
            data=None if data is None else Path(data),
            family=source.family.name,
            mean=mean,
            std=std,
        )
        run = Run(
            directory=directory,
            manifest=manifest,
            packed=packed,
            source=source,
            images=images.sample(limit, seed),
            device=chosen,
            processes=processes,
            choices=choices,
            flags=flags,
            progress=progress if progress is not None and processes.first else _silent,
        )
        return run.report()


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
