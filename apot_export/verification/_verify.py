"""Verify an export: proofs on a few images, counts over all of them, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from apot_export.arguments import checked
from apot_export.original.choices import Choices
from apot_export.verification._options import Progress, RunOptions, StatedRun
from apot_export.verification._request import Request, Statement
from apot_export.verification.report import Report

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Unpack


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
    request = Request.of(Path(export), options, statement)
    from apot_export.verification._opening import run

    return run(request, statement, progress)
