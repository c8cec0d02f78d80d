"""`verify --backends`: the same bits everywhere, or the first value that is not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apot_export import verify
from apot_export.artifacts.directory import INTEGER_MODEL, MANIFEST, PACKED_MODEL
from apot_export.artifacts.onnx_model import build_integer_model, serialise
from apot_export.artifacts.packed import load_packed
from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.conversion.convert import convert
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.datasets import open_dataset
from apot_export.errors import DeviceError, ExportError
from apot_export.integer import IntegerNetwork, lower
from apot_export.integer.network import IntegerNode, Quantize, Requantize
from apot_export.runtimes.onnx_runtime import ALGORITHMS, Session, open_session
from apot_export.verification.running import backends as running_backends
from apot_export.verification.running.backends import compare_backends

DIGITS = "examples/digits/res8_4bit/model_best.pth.tar"
BITS = 12
needs_compiler = pytest.mark.skipif(
    not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler"
)


@pytest.fixture(scope="module")
def export(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backends") / "export"
    return convert(project / DIGITS, folder, integer=IntegerChoices(fraction_bits=BITS)).path


def replaced(export: Path, folder: Path, name: str, content: bytes) -> Path:
    """Copy an export with another file in it, its digest right."""
    copy = folder / "changed"
    shutil.copytree(export, copy)
    (copy / name).write_bytes(content)
    manifest = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
    manifest["files"][name] = {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (copy / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return copy


def changed(network: IntegerNetwork, name: str, change: Callable[[Any], Any]) -> IntegerNetwork:
    nodes = tuple(
        dataclasses.replace(node, operation=change(node.operation)) if node.name == name else node
        for node in network.nodes
    )
    return dataclasses.replace(network, nodes=nodes)


def first_of(network: IntegerNetwork, kind: type[Any], skipped: int) -> IntegerNode:
    return [node for node in network.nodes if isinstance(node.operation, kind)][skipped]


def checked(path: Path, project: Path, backends: str) -> Any:
    return verify(path, checkpoint=project / DIGITS, device="cpu", limit=40, backends=backends)


@needs_compiler
def test_all_backends_agree(export: Path, project: Path) -> None:
    report = checked(export, project, "numpy,ort-cpu,c")
    assert report.verdict == "PASS", report.failures
    found = report.to_json()["backends"]
    assert found["names"] == ["numpy", "ort-cpu", "c"]
    assert found["differing"] == {"ort-cpu": 0, "c": 0}
    assert (found["images"], found["fraction_bits"]) == (40, BITS)
    assert found["top1"] > 0.9


def test_a_wrong_model_fails_and_its_first_value_is_named(
    export: Path, project: Path, tmp_path: Path
) -> None:
    coded = load_packed(export).network
    network = lower(coded, fraction_bits=BITS)
    node = first_of(network, Quantize, 2)

    def one_threshold_off(operation: Quantize) -> Quantize:
        return dataclasses.replace(operation, thresholds=operation.thresholds + 1)

    wrong = changed(network, node.name, one_threshold_off)
    model = build_integer_model(coded, wrong, name="n", tool="test 1", metadata={})
    path = replaced(export, tmp_path, INTEGER_MODEL, serialise(model))
    report = checked(path, project, "numpy,ort-cpu")
    assert report.verdict == "FAIL"
    assert report.backends.first_difference == {"ort-cpu": node.name}
    assert any(f"first at {node.name}" in failure for failure in report.failures)


@pytest.mark.parametrize("exact", [2, None])
def test_cuda_uses_the_first_algorithm_that_gives_numpys_bits(
    monkeypatch: pytest.MonkeyPatch, export: Path, exact: int | None
) -> None:
    """A stand-in for CUDA, of which all algorithms but one are off by one."""

    class OffByOne(Session):
        def run_all(self, images: Any = None) -> dict[str, Any]:
            return {name: value + 1 for name, value in super().run_all(images).items()}

    opened = []

    def opening(model: bytes, device: str, *, algorithm: Any = None) -> Session:
        session = open_session(model, "cpu")
        if device == "cuda":
            opened.append(ALGORITHMS.index(algorithm or ALGORITHMS[0]))
            if opened[-1] != exact:
                return OffByOne(**vars(session))
        return session

    monkeypatch.setattr(running_backends, "open_session", opening)
    coded = load_packed(export).network
    images = open_dataset("digits", input_shape=(1, 8, 8), classes=10, data=None).sample(8)
    manifest = json.loads((export / MANIFEST).read_text(encoding="utf-8"))
    found = compare_backends(
        export, manifest, coded, ("numpy", "ort-cuda"), images, 8, lambda *_: None
    )
    assert found.differing == {"ort-cuda": 8 + 8 if exact is None else 0}
    assert opened[:3] == [0, 1, 2]


@needs_compiler
def test_a_wrong_program_fails(export: Path, project: Path, tmp_path: Path) -> None:
    packed = load_packed(export)
    network = lower(packed.network, fraction_bits=BITS)
    node = first_of(network, Requantize, 1)

    def one_unit_more(operation: Requantize) -> Requantize:
        offset = operation.offset + np.int64(1 << operation.shift)
        return dataclasses.replace(operation, offset=offset)

    wrong = changed(network, node.name, one_unit_more)
    content = packed_file_bytes(packed.network, packed.provenance, wrong)
    path = replaced(export, tmp_path, PACKED_MODEL, content)
    report = checked(path, project, "numpy,c")
    assert report.verdict == "FAIL"
    assert "not those of the network" in report.backends.first_difference["c"]


@pytest.mark.parametrize("backends", ["numpy", "numpy,gpu", "", "numpy,numpy"])
def test_backends_are_two_known_ones(export: Path, project: Path, backends: str) -> None:
    with pytest.raises(DeviceError, match="two or more"):
        checked(export, project, backends)


def test_without_an_integer_network_there_is_nothing_to_compare(
    project: Path, tmp_path: Path
) -> None:
    path = convert(project / DIGITS, tmp_path / "export").path
    with pytest.raises(ExportError, match="no integer network") as caught:
        checked(path, project, "numpy,ort-cpu")
    assert caught.value.fix == "convert the checkpoint with --integer"


def test_cuda_needs_its_provider(export: Path, project: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceError, match="CUDA provider"):
        checked(export, project, "numpy,ort-cuda")
