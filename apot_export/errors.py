"""Every error that apot-export raises, one sentence each."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path


class ApotExportError(Exception):
    """Something could not be done; says what, where, what was expected, what was found, what to do.

    Attributes:
        what: One sentence naming the problem.
        where: File, tensor or layer that has the problem, if there is one.
        expected: What would have been right.
        got: What was found instead.
        fix: What the user can do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.expected = expected
        self.got = got
        self.fix = fix

    def details(self) -> list[tuple[str, str]]:
        """Return the (label, text) pairs that are known beyond `what`, in reading order."""
        pairs = [
            ("where", self.where),
            ("expected", self.expected),
            ("got", self.got),
            ("to do", self.fix),
        ]
        return [(label, text) for label, text in pairs if text is not None]

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  {label}: {text}" for label, text in self.details())])


class CheckpointError(ApotExportError):
    """A checkpoint cannot be read, or is not what it must be."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint asks for code to be run on loading; nothing of it was run."""


class RecognitionError(CheckpointError):
    """No known family or architecture explains the keys and shapes of a checkpoint."""


class AmbiguousFamilyError(RecognitionError):
    """A checkpoint may be of several families.

    Attributes:
        families: Their names.
    """

    def __init__(self, families: Sequence[str], **parts: str) -> None:
        super().__init__("Two families have these keys, and nothing tells which it is.", **parts)
        self.families = families


class BitWidthError(ApotExportError):
    """The bit-width is unknown, contradictory or not defined for the family."""


class WeightError(CheckpointError):
    """A weight, threshold or batch-norm tensor has values that cannot be quantized."""


class CodebookError(ApotExportError):
    """A codebook is malformed or was asked for something that it cannot represent."""


class CaptureError(ApotExportError):
    """A network's graph holds something that the intermediate representation cannot say."""


class ModelError(ApotExportError):
    """A network of the user's own cannot be imported, built or run."""


class BoundError(ApotExportError):
    """An accumulator could leave the range in which its arithmetic is exact."""


class PackedFileError(ApotExportError):
    """A packed file is truncated, damaged, or not of a version that this program reads."""


class ExportError(ApotExportError):
    """An export directory cannot be written, found or read."""


class DatasetError(ApotExportError):
    """A dataset is missing, malformed or does not fit the network."""


class DeviceError(ApotExportError):
    """A device or execution provider that was asked for is not there."""


class IntegerError(ApotExportError):
    """A network has no all-integer form."""


class KernelError(ApotExportError):
    """Native code cannot be built, or does not run a network."""


class TargetError(ApotExportError):
    """An ONNX model was asked for in a form that does not exist."""


class TuningError(ApotExportError):
    """A model cannot be tuned, or the tuned one does not compute the network."""


class OptionError(ApotExportError, TypeError):
    """A function was called with an argument that it does not take, or of another type."""


class MissingPackageError(ApotExportError, ImportError):
    """A package that apot-export depends on is not installed, as after `pip install --no-deps`."""

    def __init__(self, error: ModuleNotFoundError, extra: str | None = None) -> None:
        """Take the error of the import, and the extra that the package comes with."""
        name = "apot-export" if extra is None else f"'apot-export[{extra}]'"
        without = "; without them, apot_export.load_packed and compile_network work"
        super().__init__(
            "A package that this needs is not installed.",
            where=sys.prefix,
            expected="all packages that apot-export depends on"
            if extra is None
            else f"the packages of its extra {extra}",
            got=str(error),
            fix=f"pip install {name} (or uv pip install {name})" + ("" if extra else without),
        )


def visible(text: str) -> str:
    r"""Return a text with every character spelled out that a terminal or a page would obey or hide.

    File names may hold line breaks, marks that reverse the reading direction, or undecodable bytes.

    >>> print(visible("cat\x1b[31m\u202egnp.\udcff"))
    cat\x1b[31m\u202egnp.\udcff
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def absence(path: Path) -> str | None:
    """Say why nothing is found at a path, and how much of it there is; None where there is."""
    try:
        path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            return f"a link to {path.readlink()}, which is not there"
        part = path.absolute()
        while not os.path.lexists(part.parent):
            part = part.parent
        return f"{part.parent} has no {part.name}"
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None
