"""Open what a verification runs with PyTorch: the original, the models, the device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch

from apot_export.artifacts.directory import INTEGER_MODEL, ONNX_MODEL, PACKED_MODEL
from apot_export.artifacts.onnx_model.probe import parse_modest_model
from apot_export.errors import DeviceError
from apot_export.network import CodedNetwork
from apot_export.runtimes.torch_runtime import explicit_settings
from apot_export.verification._options import Progress
from apot_export.verification._original import find_original
from apot_export.verification._request import Request, Statement
from apot_export.verification._run import Run
from apot_export.verification.proof.sample import compare_sample
from apot_export.verification.report import Report
from apot_export.verification.running.processes import Processes, joined_processes
from apot_export.verification.running.sides import packed_executor

_DEVICES = ("auto", "cuda", "cpu")


def run(request: Request, statement: Statement, progress: Progress | None) -> Report:
    """Open what is missing, and run a verification."""
    with joined_processes() as processes, explicit_settings() as flags:
        shown = progress if progress is not None and processes.first else _silent
        return _opened(request, statement, processes, flags, shown).report()


def _modest_graph(
    directory: Path, manifest: Mapping[str, Any], packed: CodedNetwork
) -> onnx.ModelProto:
    """Look through an export's models before anything runs them; return the float one's graph."""
    names = [ONNX_MODEL, *({INTEGER_MODEL} & {*manifest["files"]})]
    paths = [directory / name for name in names]
    graph, *_ = [parse_modest_model(p.read_bytes(), packed.input_shape, str(p)) for p in paths]
    return graph


def _opened(
    request: Request,
    statement: Statement,
    processes: Processes,
    flags: Mapping[str, Any],
    progress: Progress,
) -> Run:
    device = _device(request.options.device, processes)
    progress("opening export and original", 0, 1)
    directory, manifest, packed = request.directory, request.manifest, request.packed
    graph = _modest_graph(directory, manifest, packed)
    held_to = baseline = None
    if request.source is not None:
        held_to = find_original(request, statement, request.source)
    elif not request.alone:
        baseline = packed_executor(directory / PACKED_MODEL, packed, torch.get_num_threads())
    return Run(
        **vars(request),
        graph=graph,
        held_to=held_to,
        baseline=baseline,
        device=device,
        processes=processes,
        sample=processes.from_first(lambda: compare_sample(directory, manifest, packed)),
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
