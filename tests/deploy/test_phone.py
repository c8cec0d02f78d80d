"""The ORT format of an export, made and listed as docs/deploy/phone.md says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from tests.support.pages import ROOT, blocks, run_lines

FOLDER = ROOT / "build" / "phone"
MODELS = ("model", "model.integer")
(LINES,) = blocks("docs/deploy/phone.md", "sh")


def listed(file: Path) -> dict[str, dict[int, set[str]]]:
    """Return the operators of a list for minimal builds, by domain and operator set."""
    found: dict[str, dict[int, set[str]]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            domain, opset, operators = line.split(";")
            while "{" in operators:  # the types of an operator, in JSON
                operators = re.sub(r"\{[^{}]*\}", "", operators)
            found.setdefault(domain, {})[int(opset)] = set(operators.split(","))
    return found


def run(model: Path, images: NDArray[np.float32], profile: Path | None = None) -> Any:
    """Return logits; with a profile, and the names of the operators whose kernels ran."""
    options = onnxruntime.SessionOptions()
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images})
    if profile is None:
        return logits
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = {event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})}
    return logits, ran


def test_the_files_compute_the_network_with_the_operators_of_the_list(
    tmp_path: Path,
) -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    run_lines(LINES)
    images = np.random.default_rng(0).random((16, 1, 8, 8), dtype=np.float32)
    operators = listed(FOLDER / "required_operators_and_types.config")
    assert set(operators) == {"ai.onnx", "com.microsoft"}
    assert operators.pop("com.microsoft") == {1: {"FusedConv"}}
    kernels = {"FusedConv"}
    for opset, names in operators["ai.onnx"].items():
        kernels |= names
        for name in names:
            assert onnx.defs.get_schema(name, opset).since_version == opset
    ran = set()
    for model in MODELS:
        found, here = run(FOLDER / f"{model}.ort", images, tmp_path / model)
        expected = run(FOLDER / "export" / f"{model}.onnx", images)
        tolerance = 0 if model == "model.integer" else 1e-4
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
        assert found.dtype == expected.dtype
        ran |= here
    assert ran == kernels
