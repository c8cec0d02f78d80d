"""Sample inputs of an export and what they give, in `sample.npz`."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export import budgets
from apot_export.budgets import Budget
from apot_export.errors import ExportError

SYNTHETIC = "synthetic"
"""Source of samples that are noise."""
_TYPES = {
    "inputs": "f4",
    "images": "u1",
    "labels": "i8",
    "logits": "f4",
    "oracle_logits": "f4",
    "integer_logits": "i8",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A few inputs of a network, and its outputs.

    The arrays of the file have the names of these fields; those that are None are not there.
    """

    source: str
    """The data set that the inputs are from, or `SYNTHETIC`."""
    inputs: NDArray[np.float32]
    """[N, C, H, W], as the float model reads them."""
    images: NDArray[np.uint8] | None = None
    """[N, H, W, C]: the pixels that they are made of, in the range of the preprocessing."""
    labels: NDArray[np.int64] | None = None
    """[N]: the true classes."""
    logits: NDArray[np.float32] | None = None
    """[N, ...]: the first output of the float model in ONNX Runtime, on one thread of a CPU."""
    oracle_logits: NDArray[np.float32] | None = None
    """[K, ...]: of the oracle, for the first K inputs; K is less than N in large networks."""
    integer_logits: NDArray[np.int64] | None = None
    """[N, ...]: of the integer model."""

    def __len__(self) -> int:
        return len(self.inputs)

    def to_json(self) -> dict[str, Any]:
        """Return what manifests say of it."""
        few = 0 if self.oracle_logits is None else len(self.oracle_logits)
        return {"source": self.source, "inputs": len(self), "oracle": few}

    def to_bytes(self) -> bytes:
        """Return the file: the same arrays give the same bytes."""
        buffer = io.BytesIO()
        # Not compressed: libraries of compression differ in their bytes.
        arrays: dict[str, Any] = {
            field.name: np.asarray(getattr(self, field.name))
            for field in fields(self)
            if getattr(self, field.name) is not None
        }
        np.savez(buffer, **arrays)
        return buffer.getvalue()


def read_sample(path: Path) -> Sample:
    """Read the sample of an export; nothing is unpickled.

    Raises:
        ExportError: The file is no sample, or asks for more memory than one of its size may.
    """
    names = {field.name for field in fields(Sample)}
    try:
        # Where numpy opens the file itself, it leaves one open that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            size = sum(entry.file_size for entry in content.zip.infolist())
            budget = Budget(path.stat().st_size)
            budget.require(budgets.BYTES, size, str(path), ExportError)
            found: dict[str, Any] = {name: content[name] for name in names & set(content.files)}
        found["source"] = str(found["source"])
        sample = Sample(**found)
    except ExportError:
        raise
    except Exception as error:  # damage lets numpy and zipfile raise even what tokenizers do
        raise _damaged(path, str(error) or type(error).__name__) from error
    for name, kind in _TYPES.items():
        array = getattr(sample, name)
        if array is None:
            continue
        if array.dtype != np.dtype(kind) or array.ndim == 0:
            raise _damaged(path, f"{name}: {array.dtype} {list(array.shape)}")
        fits = len(array) <= len(sample) if name == "oracle_logits" else len(array) == len(sample)
        if not fits:
            raise _damaged(path, f"{name}: {len(array)} of {len(sample)} inputs")
    return sample


def _damaged(path: Path, got: str) -> ExportError:
    return ExportError(
        "The samples of the export cannot be read.",
        where=str(path),
        expected="what apot-export convert wrote",
        got=got,
        fix="convert again",
    )
