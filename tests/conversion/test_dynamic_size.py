"""Models for images of any size: what they compute, and which networks have none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

import apot_export
from apot_export.artifacts.directory import ONNX_MODEL
from apot_export.artifacts.onnx_model import build_model, serialise
from apot_export.artifacts.onnx_model.probe import takes_any_size
from apot_export.artifacts.packed import load_packed
from apot_export.errors import TargetError
from apot_export.network import Add, GlobalAveragePool, MaxPool, Upsample, oracle
from apot_export.network.codebook import apot
from apot_export.network.sizes import at_another_size, of_any_size
from apot_export.runtimes.onnx_runtime import open_session
from apot_export.verification import verify
from tests.support.commands import CHECKPOINT, EXPORT, document, here, replace_file, run
from tests.support.networks import Builder, Step, network_of, quantizer
from tests.support.onnx_values import bodies
from tests.support.training_codes import make

RES20 = "checkpoints/CIFAR10/result/res20_4bit/model_best.pth.tar"
SHAPE = (1, 8, 8)


def dimensions(value: onnx.ValueInfoProto) -> list[int | str]:
    sizes = value.type.tensor_type.shape.dim
    return [size.dim_value if size.HasField("dim_value") else size.dim_param for size in sizes]


def random_of(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


# --- networks that have one -----------------------------------------------------------------------


@pytest.mark.parametrize("target", ["portable", "plain"])
def test_resnet_20_runs_and_verifies_at_32_and_40(
    target: str, reference: Path, tmp_path: Path
) -> None:
    result = apot_export.convert(
        reference / RES20, tmp_path / "e", target=target, dynamic_size=True
    )
    assert result.image_size == "dynamic"
    model = onnx.load(result.path / ONNX_MODEL)
    onnx.checker.check_model(model, full_check=True)
    assert dimensions(model.graph.input[0]) == ["batch", 3, "height", "width"]
    assert dimensions(model.graph.output[0]) == ["batch", 10]
    report = verify(
        result.path,
        dataset="cifar10",
        data=reference / "datasets" / "cifar10-test-head",
        limit=20,
    )
    assert not report.failures
    assert report.another_size is not None
    assert report.another_size.size == "40 x 40"
    assert report.another_size.accumulators.compared > report.accumulators.compared
    assert report.another_size.levels.compared > 0
    assert report.another_size.levels.images == report.another_size.accumulators.images == 2


def test_the_mean_is_of_the_whole_image_at_every_size(reference: Path, tmp_path: Path) -> None:
    path = apot_export.convert(reference / RES20, tmp_path / "e", dynamic_size=True).path
    session = open_session((path / ONNX_MODEL).read_bytes(), "cpu")
    other = at_another_size(of_any_size(load_packed(path).network))
    image = random_of(1, *other.input_shape)
    expected = oracle.run(other, image)
    np.testing.assert_allclose(session.run(image), expected, rtol=0.05, atol=0.05)
    image[:, :, 34:] += 1  # beyond what a pool of 8 x 8 places would see
    assert np.abs(session.run(image) - expected).max() > 0.1


@pytest.mark.parametrize("target", ["portable", "plain"])
def test_a_dense_network_returns_maps_as_large_as_its_images(target: str, tmp_path: Path) -> None:
    network = make(kind="v2", dense=True)
    result = apot_export.convert(
        network, tmp_path / "e", input_shape=SHAPE, target=target, dynamic_size=True
    )
    session = open_session((result.path / ONNX_MODEL).read_bytes(), "cpu")
    for height, width in ((8, 8), (12, 20)):
        image = random_of(2, 1, height, width)
        with torch.no_grad():
            expected = network.eval()(torch.from_numpy(image)).numpy()
        found = session.run(image)
        assert found.shape == (2, 10, height, width)
        assert np.isclose(found, expected, rtol=1e-4, atol=1e-4).mean() > 0.99
    np.savez(tmp_path / "images.npz", images=random_of(20, *SHAPE))
    report = verify(result.path, original=network, images=tmp_path / "images.npz")
    assert not report.failures
    assert report.another_size is not None
    assert report.another_size.size == "16 x 16"
    assert report.another_size.levels.compared > 0


@pytest.mark.parametrize("target", ["portable", "cuda", "plain"])
def test_no_body_holds_a_size(target: str) -> None:
    book = apot(4, signed=True)
    builder = Builder(image=(3, 9, 8))
    first = builder.convolution("image", 128, (3, 3), book, padding=(1, 1))
    activation = quantizer(apot(2, signed=False), 1.0)
    wide = builder.convolution(first, 128, (3, 3), book, activation, padding=(1, 1))
    network = builder.head(builder.add(GlobalAveragePool(), wide), 4, book)
    options: dict[str, Any] = {"name": "x", "tool": "t 1", "metadata": {}}
    assert "winograd" in bodies(build_model(network, **options)).values()
    model = build_model(network, **options, target=target, dynamic_size=True)
    assert "winograd" not in bodies(model).values()
    other = at_another_size(network)
    for sized in (network, other):
        images = random_of(1, *sized.input_shape)
        found = open_session(serialise(model), "cpu").run(images)
        np.testing.assert_allclose(found, oracle.run(sized, images), rtol=1e-3, atol=1e-3)


def test_another_size_is_one_that_the_network_can_halve_as_often() -> None:
    steps: list[Step] = [
        ("down", MaxPool(kernel=(16, 16), stride=(16, 16)), "image"),
        ("up", Upsample(scale=(16, 16)), "down"),
        ("sum", Add(), "up image"),
    ]
    network = network_of([], steps, (1, 32, 48))
    assert at_another_size(network).input_shape == (1, 48, 64)


@here
def test_command_json_and_manifest_say_so() -> None:
    found = document("convert", CHECKPOINT, "-o", "a", "--dynamic-size")
    assert found["image_size"] == "dynamic"
    assert document("convert", CHECKPOINT, "-o", "b")["image_size"] == "fixed"
    assert json.loads(Path("a/manifest.json").read_text())["dynamic_size"] is True
    assert "dynamic_size" not in json.loads(Path("b/manifest.json").read_text())
    for folder, size in (("a", "dynamic"), ("b", "fixed")):
        assert takes_any_size(onnx.load(f"{folder}/model.onnx")) == (size == "dynamic")
        again = run("convert", folder, "-o", "c", "--force", *["--dynamic-size"] * (folder == "a"))
        assert f"{size} image size" in " ".join(again.output.split())
        verified = document("verify", folder, "--limit", "20")
        assert verified["verdict"] == "PASS"
        assert (verified["another_size"] or {}).get("size") == (
            "16 x 16" if folder == "a" else None
        )
    assert "16 x 16" in run("verify", "a", "--limit", "20", "--html", "page.html").output
    assert "16 x 16" in Path("page.html").read_text()


@here
def test_the_integer_model_keeps_its_size() -> None:
    assert run("convert", CHECKPOINT, "-o", "a", "--dynamic-size", "--integer").exit_code == 0
    assert takes_any_size(onnx.load("a/model.onnx"))
    assert not takes_any_size(onnx.load("a/model.integer.onnx"))


class Gated(nn.Module):
    """Channels weighted by a function of their means, as in squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.first(image)
        weighted = features * torch.sigmoid(self.gate(features.mean((2, 3), keepdim=True)))
        return functional.adaptive_avg_pool2d(weighted, 1).flatten(1)


def test_one_number_of_a_channel_fits_every_size(tmp_path: Path) -> None:
    network = Gated().eval()
    path = apot_export.convert(network, tmp_path / "e", input_shape=SHAPE, dynamic_size=True).path
    session = open_session((path / ONNX_MODEL).read_bytes(), "cpu")
    for height, width in ((8, 8), (12, 20)):
        image = random_of(2, 1, height, width)
        with torch.no_grad():
            expected = network(torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(session.run(image), expected, rtol=1e-4, atol=1e-5)


POOLS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], int]] = {
    "a window of one size": (nn.AvgPool2d(8), 2),
    "a window of one size, called": (lambda x: functional.avg_pool2d(x, 8), 2),
    "as large as the image": (lambda x: functional.avg_pool2d(x, x.size(2)), 1),
}


@pytest.mark.parametrize(("pool", "places"), POOLS.values(), ids=POOLS)
def test_a_pool_as_large_as_the_image_stays_what_it_is(
    pool: Callable[[torch.Tensor], torch.Tensor], places: int, tmp_path: Path
) -> None:
    network = Dense(pool)
    result = apot_export.convert(network, tmp_path / "e", input_shape=SHAPE, dynamic_size=True)
    assert result.notes == ()
    session = open_session((result.path / ONNX_MODEL).read_bytes(), "cpu")
    for size in (8, 16):
        image = random_of(2, 1, size, size)
        with torch.no_grad():
            expected = network(torch.from_numpy(image)).numpy()
        assert expected.shape[2] == (places if size > 8 else 1)
        np.testing.assert_allclose(session.run(image), expected, rtol=1e-4, atol=1e-5)
    np.savez(tmp_path / "images.npz", images=random_of(20, *SHAPE))
    report = verify(result.path, original=network, images=tmp_path / "images.npz")
    assert not report.failures


def test_a_pool_that_becomes_one_of_the_whole_image_is_said(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(4, 2))
    result = apot_export.convert(network, tmp_path / "e", input_shape=SHAPE, dynamic_size=True)
    assert result.notes[0].startswith("1 averages the whole image at every size")


# --- networks that have none ----------------------------------------------------------------------


class Dense(nn.Module):
    """A convolution, and something that a network may do at its own size alone."""

    def __init__(self, end: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.end = end

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.end(self.first(image))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "flattened positions": (lambda: make(kind="v2"), "view"),
    "pool to a size": (lambda: Dense(nn.AdaptiveAvgPool2d(8)), "resample"),
    "upsampling to a size": (lambda: Dense(nn.Upsample(size=(16, 16))), "end"),
    "rows exchanged with columns": (lambda: Dense(lambda x: x.transpose(2, 3)), "transpose"),
    "half of the rows": (lambda: Dense(lambda x: x[:, :, :4]), "crop"),
    "means of rows": (lambda: Dense(lambda x: x.mean(3, keepdim=True)), "reduce"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_node_that_fixes_the_size_is_named(name: str, tmp_path: Path) -> None:
    network, where = REFUSED[name][0](), REFUSED[name][1]
    with pytest.raises(TargetError) as refused:
        apot_export.convert(network, tmp_path / "e", input_shape=SHAPE, dynamic_size=True)
    assert where in (refused.value.where or "")
    assert not (tmp_path / "e").exists()
    apot_export.convert(network, tmp_path / "e", input_shape=SHAPE)


@here
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_targets_for_one_size_are_refused(target: str) -> None:
    for source in (CHECKPOINT, EXPORT):
        result = run("convert", source, "-o", "a", "--target", target, "--dynamic-size")
        assert result.exit_code == 2
        assert target in result.output
        assert not Path("a").exists()


@here
def test_tuning_is_refused() -> None:
    assert run("convert", CHECKPOINT, "-o", "a", "--dynamic-size").exit_code == 0
    refused = run("tune", "a", "--seconds", "1")
    assert refused.exit_code == 2
    assert "apot-export convert a -o a_fixed" in refused.output
    assert run("convert", "a", "-o", "a_fixed").exit_code == 0
    assert not takes_any_size(onnx.load("a_fixed/model.onnx"))


# --- faults that only another size shows ----------------------------------------------------------


@here
@pytest.mark.parametrize("fault", ["sizes in bodies", "a pool of one size"])
def test_verify_fails(fault: str) -> None:
    assert run("convert", CHECKPOINT, "-o", "a", "--dynamic-size").exit_code == 0
    model = onnx.load("a/model.onnx")
    if fault == "sizes in bodies":
        network = load_packed("a").network
        model = build_model(network, name="x", tool="t 1", metadata={}, target="cpu")
        for value in (*model.graph.input, *model.graph.value_info):
            for size in value.type.tensor_type.shape.dim[2:]:
                size.Clear()
    else:
        (pool,) = (node for node in model.graph.node if node.op_type == "GlobalAveragePool")
        pool.op_type = "AveragePool"
        for name in ("kernel_shape", "strides"):
            pool.attribute.append(onnx.helper.make_attribute(name, [2, 2]))
    replace_file(Path("a"), ONNX_MODEL, serialise(model))
    found = document("verify", "a", "--limit", "20")
    assert found["verdict"] == "FAIL"
    assert all(failure.startswith("on images of 16 x 16, ") for failure in found["failures"])


def test_verify_fails_where_the_original_fixes_what_the_graph_does_not(tmp_path: Path) -> None:
    network = Dense(nn.AdaptiveAvgPool2d(8))
    apot_export.convert(network, tmp_path / "a", input_shape=SHAPE)
    export = apot_export.convert_export(tmp_path / "a", tmp_path / "b", dynamic_size=True).path
    np.savez(tmp_path / "images.npz", images=random_of(20, *SHAPE))
    report = verify(export, original=network, images=tmp_path / "images.npz")
    assert report.failures
    assert all("on images of 16 x 16, " in failure for failure in report.failures)
