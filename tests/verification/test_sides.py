"""Sides: what the original can be compared with, each measured and judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apot_export.errors import DeviceError
from apot_export.network import CodedLayer, CodedNetwork
from apot_export.runtimes.onnx_runtime import CPU, CUDA, Placement
from apot_export.runtimes.torch_runtime import explicit_settings, torch_executor, twin_executors
from apot_export.verification import _options
from apot_export.verification._options import parse_sides
from apot_export.verification._verdict import agreement_failures
from apot_export.verification.report import Yardstick
from apot_export.verification.running.sides import OpenedSides, ort_device
from tests.support.workshop import DIGITS, LAYER, Workshop, change_layer, open_workshop


@pytest.fixture(scope="module")
def workshop(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(project / DIGITS, tmp_path_factory.mktemp("sides"))


def test_sides_are_named() -> None:
    assert parse_sides(None, "cpu") == ("ort-cpu",)
    assert parse_sides("ort", "cuda:1") == ("ort-cuda",)
    assert parse_sides("oracle, ort,ort-cpu", "cpu") == ("oracle", "ort-cpu")
    for wrong in ("", "tensorrt", "ort,"):
        with pytest.raises(DeviceError) as caught:
            parse_sides(wrong, "cpu")
        assert "ort,ort-cpu,ort-cuda,openvino,native,oracle,packed" in str(caught.value)
    assert ort_device("ort-cuda", "cuda:1") == "cuda:1"
    assert ort_device("ort-cpu", "cuda:1") == "cpu"
    assert ort_device("ort-cuda", "cpu") == "cuda"


@pytest.mark.parametrize(
    "sides", ["ort,oracle", "packed,ort-cpu", "oracle", "ort,openvino,native,oracle,packed"]
)
def test_every_side_agrees_with_the_original(workshop: Workshop, sides: str) -> None:
    report = workshop.verify(workshop.export, sides=sides, limit=60)
    assert report.verdict == "PASS"
    names = [side.name for side in report.sides]
    assert names == [name if name != "ort" else "ort-cpu" for name in sides.split(",")]
    for side in report.sides:
        assert side.agreement == 1
        assert side.side.top1 == report.original.top1
        assert sum(side.logit_differences) == 60 * 10
        assert side.side.images_per_second > 0
    assert report.provider == (CPU if names[0] == "ort-cpu" else names[0])
    assert set(report.placement) == ({CPU} if "ort-cpu" in names else set())
    assert [side["name"] for side in report.to_json()["sides"]] == names


def test_a_side_that_computes_something_else_fails_by_name(workshop: Workshop) -> None:
    """Only the packed file is wrong, so only its readers are."""

    def negate(network: CodedNetwork) -> CodedNetwork:
        layer = network.layers[LAYER]
        assert isinstance(layer, CodedLayer)
        packed = np.zeros_like(layer.packed)
        return change_layer(network, LAYER, stored=packed)

    wrong = workshop.write(packed=negate(workshop.network))
    report = workshop.verify(wrong, sides="ort,oracle", limit=None)
    assert [side.agreement > 0.99 for side in report.sides] == [True, False]
    (failure,) = [failure for failure in report.failures if "agrees" in failure]
    assert failure.startswith("oracle agrees with the original on")


def test_agreement_is_judged_by_the_originals_own() -> None:
    yardstick = Yardstick(name="convolution algorithm", images=1000, agreeing=990)
    assert yardstick.agreement == 0.99

    class Found:
        name = "oracle"

        def __init__(self, agreement: float) -> None:
            self.agreement = agreement

    close: Any = Found(0.985)
    far: Any = Found(0.95)
    assert agreement_failures(1000, [close, close], yardstick) == []
    assert len(agreement_failures(1000, [far, far], yardstick)) == 2


def test_nodes_elsewhere_are_named_with_their_side() -> None:
    placement = Placement(nodes={CUDA: ("a (Conv)",), CPU: ("b (Gather)",)}, shape_nodes=())
    opened = OpenedSides(
        executors={"ort-cuda": lambda images: images}, placements={"ort-cuda": (CUDA, placement)}
    )
    assert opened.failures() == [f"1 nodes did not run on {CUDA}: b (Gather)"]
    assert opened.provider() == f"{CPU} + {CUDA}"


# --- the original, computed otherwise -------------------------------------------------------------


def test_settings_are_explicit_and_come_back() -> None:
    torch.backends.cudnn.benchmark = True
    try:
        with explicit_settings() as flags:
            assert flags == {"tf32": False, "cudnn_benchmark": False, "cudnn_deterministic": True}
            assert not torch.backends.cudnn.benchmark
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = False


@pytest.mark.parametrize("count", [1, 2, 5])
def test_twins_compute_the_same_otherwise(count: int) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
    images = np.random.default_rng(1).normal(0, 1, (count, 3, 8, 8)).astype(np.float32)
    expected = torch_executor(module, "cpu")(images)
    twins = twin_executors(module, "cpu")
    assert list(twins) == ["convolution algorithm", "batch size"]
    for twin in twins.values():
        np.testing.assert_allclose(twin(images), expected, rtol=1e-4, atol=1e-5)
    assert list(twin_executors(module, "cuda:0"))[2] == "TF32"


def test_yardsticks_are_reported(workshop: Workshop) -> None:
    report = workshop.verify(workshop.export)
    names = [yardstick.name for yardstick in report.yardsticks]
    assert names == ["convolution algorithm", "batch size"]
    assert {yardstick.images for yardstick in report.yardsticks} == {32}


# --- images that cannot be read -------------------------------------------------------------------


def test_a_dataset_without_any_readable_image_is_an_error(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apot_export.datasets import Dataset
    from apot_export.errors import DatasetError

    def refuse(_: int) -> Any:
        raise DatasetError("An image cannot be read.", got="damaged")

    broken = Dataset(name="digits", root="r", labels=np.zeros(4, dtype=np.int64), load=refuse)
    monkeypatch.setattr(
        "apot_export.verification.running.images.open_dataset", lambda *_, **__: broken
    )
    with pytest.raises(DatasetError, match="can be read"):
        workshop.verify(workshop.export)


def test_default_sizes_fit_the_images(workshop: Workshop) -> None:
    assert _options._BATCH_PIXELS // (3 * 224 * 224) == 16
    assert workshop.verify(workshop.export).settings["batch_size"] == 100
