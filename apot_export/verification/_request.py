"""What a verification is asked for: the export, the original that is meant, the images.

All of it opens without PyTorch, which takes seconds to load: mistakes are told before.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts.directory import PACKED_MODEL, check_files, read_manifest
from apot_export.artifacts.packed import load_packed
from apot_export.datasets import ArrayFile, Dataset
from apot_export.network import CodedNetwork
from apot_export.original import families
from apot_export.original.choices import Choices
from apot_export.original.files import (
    recorded_file,
    recorded_path,
    require_checkpoint_file,
    require_recorded_digest,
)
from apot_export.verification._options import RunOptions
from apot_export.verification.running.images import open_images

if TYPE_CHECKING:
    from torch import nn

RIGHT_FILE = (
    "name the right file with --checkpoint, convert this one again, or hold the export "
    "to this one by stating how it was trained: --checkpoint FILE --bits N"
)
"""What to do about a checkpoint that is not the recorded one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Statement:
    """What a user states about the original of an export."""

    checkpoint: str | PathLike[str] | None = None
    """None for the file that the manifest records."""
    network: nn.Module | None = None
    """The network itself, in place of a file."""
    model: str | None = None
    """Factory of a custom network, whose code is run."""
    model_arguments: Mapping[str, Any] | None = None
    input_shape: Sequence[int] | str | None = None
    choices: Choices | None = None
    """How the checkpoint was trained; None for the choices that the manifest records."""

    @property
    def names_nothing(self) -> bool:
        """Whether the user stated nothing at all."""
        return not any(vars(self).values())

    def says_how(self, manifest: Mapping[str, Any]) -> bool:
        """Tell whether the original is the stated one, whatever a manifest records.

        It is with quantization choices, with arguments or an image shape of a custom network, or
        with a factory where the export had none.
        """
        return (
            self.choices is not None
            or bool(self.model_arguments)
            or self.input_shape is not None
            or (self.model is not None and "model" not in manifest)
        )

    def must_be_recorded(self, manifest: Mapping[str, Any]) -> bool:
        """Tell whether the original must have the digest that a manifest records."""
        names_one = self.checkpoint is not None or self.network is not None
        return not (self.says_how(manifest) and names_one)

    def source(
        self, directory: Path, manifest: Mapping[str, Any]
    ) -> str | PathLike[str] | nn.Module:
        """Return the network or file that is given, else the file that the manifest records.

        Raises:
            ApotExportError: The file is not there, or not the one that it must be.
        """
        if self.network is not None:
            return self.network
        path = self.checkpoint
        if path is None:
            path = recorded_file(
                directory,
                manifest,
                if_in_memory="verify it in Python: apot_export.verify(export, original=network)",
                if_gone="say where it is: --checkpoint FILE; or hold the export to outputs of your "
                "own code: --reference FILE",
            )
        require_checkpoint_file(Path(path))
        if self.must_be_recorded(manifest):
            digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            require_recorded_digest(digest, manifest, path, fix=RIGHT_FILE)
        return path


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A verification that can begin: export and images are open."""

    directory: Path
    manifest: Mapping[str, Any]
    packed: CodedNetwork
    source: str | PathLike[str] | nn.Module | None
    """The original; None where there is none."""
    images: Dataset
    positions: NDArray[np.int64]
    """Of `images` in the file or folder that they were chosen from."""
    reference: ArrayFile | None
    alone: bool
    """Whether the user's own outputs judge the export: no original is needed."""
    options: RunOptions

    @staticmethod
    def of(directory: Path, options: RunOptions, statement: Statement) -> Request:
        """Open an export and its images.

        Raises:
            ApotExportError: One is not there, is damaged, or does not fit the others.
        """
        manifest = read_manifest(directory)
        check_files(directory, manifest)
        packed = load_packed(directory / PACKED_MODEL).network
        alone = options.reference is not None and not (options.dataset or options.data)
        without = _is_gone(directory, manifest) or (
            alone and not _is_available(directory, manifest)
        )
        no_original = without and statement.names_nothing
        source = None if no_original else statement.source(directory, manifest)
        preprocessing = families.by_name(manifest["family"]).preprocessing
        images, reference = open_images(options, packed, preprocessing, alone=alone)
        positions = images.sampled(options.limit, options.seed)
        return Request(
            directory=directory,
            manifest=manifest,
            packed=packed,
            source=source,
            images=images.chosen(positions),
            positions=positions,
            reference=reference,
            alone=alone,
            options=options,
        )


def _is_gone(directory: Path, manifest: Mapping[str, Any]) -> bool:
    """Tell whether nothing lies where an export's checkpoint was, or there never was a file."""
    path = recorded_path(directory, manifest)
    return path is None or ("\0" not in str(path) and not os.path.lexists(path))


def _is_available(directory: Path, manifest: Mapping[str, Any]) -> bool:
    """Tell whether the recorded original can be built unasked: its file is there, and no user code.

    Where outputs of the user's own code judge an export, no original is needed.
    """
    path = recorded_path(directory, manifest)
    return path is not None and path.is_file() and "model" not in manifest
