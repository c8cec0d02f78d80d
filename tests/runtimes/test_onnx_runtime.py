"""ONNX Runtime: providers, their options, and where nodes really ran."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from apot_export.conversion.convert import convert
from apot_export.errors import DeviceError, ExportError
from apot_export.runtimes.onnx_runtime import (
    ALGORITHMS,
    CPU,
    CUDA,
    Placement,
    measure_placement,
    open_session,
    placement_of_events,
    provider_for,
)
from apot_export.verification import verify
from tests.support.workshop import DIGITS

CUDA_OPTIONS = {"device_id": "0", "use_tf32": "0", **ALGORITHMS[0]}
IMAGES = np.zeros((3, 1, 8, 8), dtype=np.float32)


@pytest.fixture(scope="module")
def export(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(project / DIGITS, tmp_path_factory.mktemp("runtime") / "digits").path


@pytest.fixture(scope="module")
def model(export: Path) -> bytes:
    return (export / "model.onnx").read_bytes()


def event(name: str, provider: str, kind: str = "float", *shape: int, op: str = "Conv") -> Any:
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "args": {"provider": provider, "op_name": op, "output_type_shape": [{kind: list(shape)}]},
    }


# --- sessions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [[0, 1, 8, 8], [2, 1, 8]], ids=str)
def test_images_of_other_ranks_and_empty_batches_are_refused(shape: list[int]) -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, shape)
    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["result"])], "g", [image], [result]
    )
    sets = [helper.make_opsetid("", 18)]
    content = helper.make_model(graph, ir_version=8, opset_imports=sets).SerializeToString()
    with pytest.raises(ExportError, match="could not run"):
        open_session(content, "cpu").run(IMAGES)


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_a_session_runs(model: bytes, threads: int) -> None:
    session = open_session(model, "cpu", threads=threads)
    assert session.provider == CPU
    assert session.options == {}
    logits = session.run(IMAGES)
    assert logits.shape == (3, 10)
    assert logits.dtype == np.float32
    everything = session.run_all(IMAGES)
    assert list(everything) == ["logits"]
    assert everything["logits"].tobytes() == logits.tobytes()


def test_bound_inputs_and_outputs_give_the_same_bits(model: bytes) -> None:
    session = open_session(model, "cpu")
    images = np.random.default_rng(0).normal(0, 1, IMAGES.shape).astype(np.float32)
    (logits,) = session.run_bound(images)
    assert logits.tobytes() == session.run(images).tobytes()


def test_a_numbered_device_is_the_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    assert provider_for("cuda:3") == (CUDA, {**CUDA_OPTIONS, "device_id": "3"})


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(ExportError, match="does not load the model"):
        open_session(b"no model", "cpu")


def test_the_model_needs_no_library_of_ours(model: bytes) -> None:
    session = onnxruntime.InferenceSession(model, providers=[CPU])
    (logits,) = session.run(None, {"images": IMAGES})
    assert logits.tobytes() == open_session(model, "cpu").run(IMAGES).tobytes()


# --- devices --------------------------------------------------------------------------------------


def test_cpu_has_no_options() -> None:
    assert provider_for("cpu") == (CPU, {})


def test_cuda_computes_float32_with_the_first_algorithm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    provider, options = provider_for("cuda")
    assert provider == CUDA
    assert options == CUDA_OPTIONS


def test_a_runtime_without_cuda_says_so(monkeypatch: pytest.MonkeyPatch, model: bytes) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(DeviceError, match="no CUDA provider") as caught:
        open_session(model, "cuda")
    assert caught.value.got == CPU
    assert "onnxruntime-gpu" in (caught.value.fix or "")


class FakeSession:
    """Records what it was opened with; falls back to the CPU as ONNX Runtime does, silently."""

    opened: tuple[Any, ...] = ()
    loads_cuda = False

    def __init__(
        self,
        content: bytes,
        options: Any,
        providers: list[Any],
        *,
        enable_fallback: bool,
        disabled_optimizers: list[str],
    ) -> None:
        assert not enable_fallback  # it prints on standard output, and hides what is to be reported
        assert not disabled_optimizers
        type(self).opened = (content, options.intra_op_num_threads, providers)

    def get_providers(self) -> list[str]:
        return [CUDA, CPU] if self.loads_cuda else [CPU]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    class Fresh(FakeSession):
        pass

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Fresh)
    return Fresh


def test_a_silent_fall_back_to_the_cpu_is_an_error(fake: type[FakeSession]) -> None:
    with pytest.raises(DeviceError, match="fell back silently") as caught:
        open_session(b"", "cuda")
    assert (caught.value.expected, caught.value.got) == (CUDA, CPU)
    assert fake.opened


def test_a_cuda_session_is_opened_with_its_options(fake: type[FakeSession]) -> None:
    fake.loads_cuda = True
    session = open_session(b"model", "cuda", threads=2)
    assert session.provider == CUDA
    assert session.options == CUDA_OPTIONS
    assert fake.opened == (b"model", 2, [(CUDA, dict(session.options)), (CPU, {})])


PRINTS = """
import ctypes, os, sys
import onnxruntime
from apot_export.errors import ExportError
from apot_export.runtimes import onnx_runtime

def preload_dlls():
    print("from Python")
    os.write(1, b"from a descriptor\\n")
    ctypes.CDLL(None).puts(b"from C")

onnxruntime.get_available_providers = lambda: [onnx_runtime.CUDA]
onnxruntime.preload_dlls = preload_dlls
try:
    onnx_runtime.open_session(b"no model", "cuda")
except ExportError:
    print("the result")
"""


@pytest.mark.skipif(os.name != "posix", reason="libc is found by name on POSIX only")
def test_what_loading_cuda_prints_is_no_output() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINTS], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "the result\n"
    for line in ("from Python", "from a descriptor", "from C"):
        assert line in done.stderr


def test_tf32_is_for_models_that_say_so(fake: type[FakeSession]) -> None:
    fake.loads_cuda = True
    session = open_session(b"model", "cuda", tf32=True)
    assert session.options["use_tf32"] == "1"
    assert provider_for("cpu", tf32=True) == (CPU, {})


def test_verify_does_not_fall_back_where_cuda_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, export: Path, project: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="CUDA was asked for"):
        verify(export, device="cuda", checkpoint=project / DIGITS, limit=4)
    with pytest.raises(DeviceError, match="no such device"):
        verify(export, device="gpu", checkpoint=project / DIGITS, limit=4)
    report = verify(export, device="auto", checkpoint=project / DIGITS, limit=4)
    assert report.settings["device"] == "cpu"


# --- placement ------------------------------------------------------------------------------------


def test_measured_placement_lists_the_nodes_that_ran(model: bytes) -> None:
    placement = measure_placement(model, "cpu", IMAGES[:1])
    assert placement.provider() == CPU
    assert placement.strays(CPU) == ()
    nodes = placement.nodes[CPU]
    assert sum("(Conv" in name or "Conv)" in name for name in nodes) >= 9
    assert any("Gemm" in name for name in nodes)
    assert len(placement.strays(CUDA)) == len(nodes)


def test_decoding_happens_when_the_model_is_loaded(model: bytes) -> None:
    """Weights are constants: ONNX Runtime folds their decoding, so no batch pays for it."""
    nodes = measure_placement(model, "cpu", IMAGES[:1]).nodes[CPU]
    assert not [name for name in nodes if "BitShift" in name or "BitwiseAnd" in name]


def test_nodes_that_strayed_to_the_cpu_are_found() -> None:
    events = [
        {"cat": "Session", "name": "model_run", "args": {}},
        event("conv1", CUDA, "float", 1, 64, 8, 8),
        event("gather", CPU, "uint8", 1, 64, 8, 8, op="GatherElements"),
        event("add", CUDA, "float", 1, 64, 8, 8, op="Add"),
        {"cat": "Node", "name": "fence_before", "args": {"op_name": "Add"}},
        {"cat": "Node", "name": "no arguments"},
    ]
    placement = placement_of_events(events)
    assert placement.nodes == {
        CUDA: ("conv1 (Conv)", "add (Add)"),
        CPU: ("gather (GatherElements)",),
    }
    assert placement.strays(CUDA) == ("gather (GatherElements)",)
    assert placement.provider() == f"{CPU} + {CUDA}"


def test_nodes_that_only_compute_shapes_may_be_on_the_cpu() -> None:
    events = [
        event("conv1", CUDA, "float", 1, 64, 8, 8),
        event("shape", CPU, "int64", 4, op="Shape"),
        event("count", CPU, "int64", op="ReduceProd"),
    ]
    placement = placement_of_events(events)
    assert placement.shape_nodes == ("shape (Shape)", "count (ReduceProd)")
    assert placement.strays(CUDA) == ()
    assert placement.provider() == CUDA


@pytest.mark.parametrize(
    "stray",
    [
        event("big", CPU, "int64", 17),
        event("index", CPU, "int32", 4),
        event("scalar", CPU, "float"),
        {"cat": "Node", "name": "unknown", "args": {"provider": CPU, "op_name": "Cast"}},
    ],
    ids=lambda stray: stray["name"],
)
def test_anything_else_on_the_cpu_is_a_stray(stray: Any) -> None:
    assert len(placement_of_events([stray]).strays(CUDA)) == 1


def test_nothing_that_ran_is_reported_as_the_cpus() -> None:
    assert Placement(nodes={}, shape_nodes=()).provider() == CPU
