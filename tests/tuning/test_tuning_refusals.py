"""Tuning an export: what is refused, which leaves everything as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from apot_export.artifacts.directory import (
    ONNX_MODEL,
    PACKED_MODEL,
)
from apot_export.artifacts.packed import load_packed
from apot_export.errors import ExportError, PackedFileError, TuningError
from apot_export.tuning._tune import tune
from tests.support.commands import (
    CHECKPOINT,
    EXPORT,
    here,
    replace_file,
)
from tests.support.tuning_machine import (
    MadeUp,
    is_cpu,
    refused,
    tuned,
)


@here
@pytest.mark.parametrize("kind", ["levels", "sums"])
def test_one_wrong_integer_is_one_too_many(kind: str) -> None:
    network = load_packed(EXPORT).network
    name = next(
        node.name
        for node in network.nodes
        if type(node.operation).__name__
        == {"levels": "QuantizeActivation", "sums": "Convolution"}[kind]
        and getattr(node.operation, "layer", "") == "layer2.0.conv2"
    )

    def off_by_one(found: str, value: NDArray[Any]) -> NDArray[Any]:
        if found == name:
            value = value.copy()
            value.flat[7] += 1
        return value

    refused(TuningError, "does not compute the network", lambda: tuned(MadeUp(value=off_by_one)))


@here
def test_a_float_beyond_rounding_is_too_many() -> None:
    def wrong(name: str, value: NDArray[Any]) -> NDArray[Any]:
        return value + np.float32(1) if name == "logits" else value

    refused(TuningError, "does not compute the network", lambda: tuned(MadeUp(value=wrong)))


@here
@pytest.mark.parametrize("factor", [-1.0, 2.0, np.nan])
def test_other_logits_of_the_fused_model_are_refused(factor: float) -> None:
    """Every value is right where it is asked for, and wrong where the runtime fuses."""
    place = MadeUp(
        disturb=lambda model, logits: (
            logits * np.float32(factor) if any(is_cpu(model).values()) else logits
        )
    )
    refused(TuningError, "logits are not those", lambda: tuned(place))


@here
@pytest.mark.parametrize("name", [ONNX_MODEL, PACKED_MODEL])
def test_changed_files_are_refused(name: str) -> None:
    data = bytearray((EXPORT / name).read_bytes())
    data[-1] ^= 1
    (EXPORT / name).write_bytes(bytes(data))
    refused(ExportError, "not the one that was written", tuned)
    (EXPORT / name).unlink()
    refused(ExportError, "missing", tuned)


@here
def test_a_consistent_but_damaged_packed_file_is_refused() -> None:
    data = bytearray((EXPORT / PACKED_MODEL).read_bytes())
    data[-1] ^= 1
    replace_file(EXPORT, PACKED_MODEL, bytes(data))
    refused(PackedFileError, "is damaged", tuned)


@here
def test_a_model_that_is_none_is_refused() -> None:
    replace_file(EXPORT, ONNX_MODEL, b"no model")
    refused(ExportError, "cannot be parsed", tuned)


@here
def test_foreign_files_are_never_replaced() -> None:
    (EXPORT / "notes.txt").write_text("mine")
    refused(ExportError, "not of an export", tuned)
    assert tuned(output=Path("elsewhere")).written


@here
@pytest.mark.parametrize("output", ["", ".", CHECKPOINT, f"{CHECKPOINT}/new"])
def test_outputs_that_cannot_be_are_refused_before_anything_runs(output: str) -> None:
    place = MadeUp()
    refused(ExportError, "output", lambda: tuned(place, output=Path(output)))
    assert place.machine.now == 100.0


@here
def test_time_is_needed() -> None:
    refused(TuningError, "takes time", lambda: tune(EXPORT, seconds=0.0))


@here
def test_a_failed_write_leaves_the_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("apot_export.artifacts.directory.os.fsync", full)
    refused(ExportError, "cannot be written", tuned)
