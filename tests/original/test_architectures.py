"""Every architecture and level set: exact weights, exact integers, explained levels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import nn

from apot_export.artifacts.onnx_model import build_model, serialise
from apot_export.artifacts.onnx_model.probe import with_outputs
from apot_export.artifacts.packed import load_packed
from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.encoding.capture import capture
from apot_export.encoding.encode import encode_network
from apot_export.errors import BitWidthError, RecognitionError
from apot_export.network import CodedLayer
from apot_export.original import architectures
from apot_export.original.choices import Choices
from apot_export.original.original import Original
from apot_export.original.parts import stated_parts
from apot_export.original.published import load_original
from apot_export.original.quantization import LayerBits, Stated
from apot_export.original.quantized_layers import QuantConv2d, QuantizedLayer
from apot_export.runtimes.onnx_runtime import open_session
from apot_export.verification.proof.certificate import original_weights
from apot_export.verification.proof.levels import compare_levels
from tests.support.random_networks import NETWORKS, write_checkpoint

pytestmark = pytest.mark.usefixtures("in_process")
SMALLER = {
    "ResNet-34 (ImageNet)": 64,
    "ResNet-50 (ImageNet)": 64,
    "ResNet-101 (ImageNet)": 64,
    "ResNet-152 (ImageNet)": 64,
    "MobileNetV2": 64,
}
"""Size of the images where those of the dataset take long and show no other layers."""
SMALL = ("ResNet-20 (CIFAR)", "ResNet-14 (MNIST)", "MobileNetV2")


def check(
    path: Path, images: np.ndarray[tuple[int, ...], np.dtype[np.float32]], choices: Choices
) -> Original:
    channels, height, width = images.shape[1:]
    original = load_original(path, choices, (channels, height, width))
    network = encode_network(
        capture(original.module, original.architecture.input_shape, original.multi_bit)
    )
    packed = path.parent / "model.apot.safetensors"
    packed.write_bytes(packed_file_bytes(network, {}))
    layers = load_packed(packed).layers
    for name, weights in original_weights(original.module).items():
        assert layers[name].weights().tobytes() == weights.tobytes(), name
    model = build_model(network, name="network", tool="test 0", metadata={})
    onnx.checker.check_model(model, full_check=True)
    exported = open_session(with_outputs(model), "cpu").run_all(images)
    found = compare_levels(original.module, images, exported)
    assert found.unexplained == 0, found.offenders
    assert found.values_outside == 0, found.offenders
    quantized = [
        layer
        for layer in layers.values()
        if isinstance(layer, CodedLayer) and layer.activation is not None
    ]
    assert bool(quantized) == (found.compared > 0)
    plain = open_session(serialise(model), "cpu").run(images)
    assert np.isfinite(plain).all()
    return original


@pytest.mark.parametrize("name", NETWORKS)
def test_every_architecture(name: str, tmp_path: Path) -> None:
    path = tmp_path / "network_4bit.pth.tar"
    images = write_checkpoint(path, name, "apot-v2", images=1, size=SMALLER.get(name))
    assert check(path, images.numpy(), Choices()).architecture.name == name


@pytest.mark.parametrize("family", ["apot-v1", "apot-v2"])
@pytest.mark.parametrize(
    ("method", "bits"),
    [
        *(("apot", bits) for bits in (2, 3, 4, 5, 6)),
        *(("pot", bits) for bits in (2, 3, 4)),
        *(("uniform", bits) for bits in (2, 3, 4, 5, 8)),
    ],
)
def test_every_level_set(family: str, method: str, bits: int, tmp_path: Path) -> None:
    path = tmp_path / "network.pth.tar"
    images = write_checkpoint(path, "ResNet-14 (MNIST)", family)
    check(path, images.numpy(), Choices(bits=bits, method=method))


@pytest.mark.parametrize(
    "choices",
    [
        Choices(bits=2),
        Choices(bits=3),
        Choices(bits=4),
        Choices(bits=2, grid="nonzero", z=1),
        Choices(bits=2, grid="nonzero", z=3),
        Choices(bits=2, activation_bits=4, grid="nonzero", z=2),
        Choices(bits=4, activation_bits=2),
        Choices(bits=3, normalize_weights=False),
    ],
)
def test_the_non_zero_family(choices: Choices, tmp_path: Path) -> None:
    path = tmp_path / "network.pth.tar"
    images = write_checkpoint(path, "ResNet-20 (CIFAR)", "nonzero", images=1)
    check(path, images.numpy(), choices)


@pytest.mark.parametrize("bits", [2, 3, 5])
@pytest.mark.parametrize("name", ["ResNet-20 (CIFAR)", "ResNet-18 (ImageNet)"])
def test_the_first_release(name: str, bits: int, tmp_path: Path) -> None:
    path = tmp_path / "network.pth.tar"
    size = 64 if "ImageNet" in name else None
    images = write_checkpoint(path, name, "first-release", images=1, size=size)
    choices = Choices(bits=bits, family="first-release")
    quantization = check(path, images.numpy(), choices).quantization
    assert (quantization.method, quantization.activation_method) == ("apot", "uniform")


def test_the_first_release_of_resnet_34(tmp_path: Path) -> None:
    path = tmp_path / "network.pth.tar"
    images = write_checkpoint(path, "ResNet-34 (ImageNet)", "first-release", images=1, size=64)
    check(path, images.numpy(), Choices(bits=3, family="first-release"))


@pytest.mark.parametrize(
    ("weights", "activations"),
    [("apot", "uniform"), ("apot", "pot"), ("pot", "apot"), ("uniform", "apot")],
)
@pytest.mark.parametrize("family", ["apot-v1", "apot-v2"])
def test_weights_and_activations_have_level_sets_apart(
    family: str, weights: str, activations: str, tmp_path: Path
) -> None:
    path = tmp_path / "network.pth.tar"
    images = write_checkpoint(path, "ResNet-20 (CIFAR)", family, images=1)
    choices = Choices(
        bits=3, activation_bits=4, method=weights, activation_method=activations, first_last="float"
    )
    quantization = check(path, images.numpy(), choices).quantization
    assert (quantization.method, quantization.activation_method) == (weights, activations)


@pytest.mark.parametrize(
    ("name", "family", "expected", "source"),
    [
        ("ResNet-20 (CIFAR)", "apot-v1", "8bit", "family"),
        ("ResNet-18 (ImageNet)", "apot-v1", "float", "family"),
        ("ResNet-18 (ImageNet)", "apot-v2", "8bit", "family"),
        ("ResNet-14 (MNIST)", "apot-v2", "8bit", "family"),
        ("ResNet-14 (MNIST)", "apot-v1", "8bit", "assumption"),
        ("ResNet-20 (CIFAR)", "nonzero", "8bit", "family"),
        ("ResNet-20 (CIFAR)", "first-release", "float", "family"),
        ("ResNet-20 (CIFAR)", "full-precision", "8bit", "assumption"),
        ("ResNet-14 (MNIST)", "full-precision", "8bit", "assumption"),
        ("ResNet-18 (ImageNet)", "full-precision", "float", "assumption"),
        ("MobileNetV2", "full-precision", "float", "assumption"),
        ("VGG-small", "full-precision", "float", "assumption"),
        ("LeNet5", "full-precision", "float", "assumption"),
    ],
)
def test_first_and_last_layers_are_those_of_the_training_code(
    name: str, family: str, expected: str, source: str, tmp_path: Path
) -> None:
    path = tmp_path / "network.pth.tar"
    write_checkpoint(path, name, family, images=1)
    choices = Choices(bits=32 if family == "full-precision" else 3, family=family)
    original = load_original(path, choices)
    assert original.plan.first_last == Stated(expected, source)
    for end in (original.architecture.first, original.architecture.last):
        layer = original.module.get_submodule(end)
        assert isinstance(layer, QuantizedLayer) == (expected == "8bit")
    other = "float" if expected == "8bit" else "8bit"
    original = load_original(path, replace(choices, first_last=other))
    assert original.plan.first_last == Stated(other, "option")


def test_layers_are_left_in_float_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "network_4bit.pth.tar"
    images = write_checkpoint(path, "ResNet-20 (CIFAR)", "apot-v1", images=1)
    patterns = tuple(
        LayerBits(pattern=pattern, weight_bits=32, activation_bits=32)
        for pattern in ("conv1", "layer2.*")
    )
    choices = Choices(layer_bits=patterns)
    original = load_original(path, choices)
    assert type(original.module.get_submodule("conv1")) is nn.Conv2d
    assert type(original.module.get_submodule("layer2.0.conv1")) is nn.Conv2d
    assert isinstance(original.module.get_submodule("fc"), QuantizedLayer)
    check(path, images.numpy(), choices)
    everything = Choices(layer_bits=(LayerBits(pattern="*", weight_bits=32, activation_bits=32),))
    original = load_original(path, everything)
    assert not any(isinstance(layer, QuantizedLayer) for layer in original.module.modules())
    again = load_original(path, original.choices)
    assert again.plan.floats == original.plan.floats


def test_the_legacy_divisor(tmp_path: Path) -> None:
    path = tmp_path / "network.pth.tar"
    images = write_checkpoint(path, "ResNet-14 (MNIST)", "apot-v2")
    check(path, images.numpy(), Choices(bits=4, method="uniform", legacy_divisor=True))


@pytest.mark.parametrize("family", ["apot-v1", "apot-v2", "nonzero"])
@pytest.mark.parametrize("bits", [2, 4])
def test_zeros_without_a_sign(family: str, bits: int, tmp_path: Path) -> None:
    path = tmp_path / "network.pth.tar"
    name = "ResNet-14 (MNIST)" if family == "apot-v2" else "ResNet-20 (CIFAR)"
    images = write_checkpoint(path, name, family, images=1)
    choices = Choices(bits=bits, activation_bits=4, unsigned_zeros=True)
    original = check(path, images.numpy(), choices)
    layer = next(layer for layer in original.module.modules() if isinstance(layer, QuantConv2d))
    weights = layer.quantized_weight().numpy()
    assert (weights == 0).any()
    assert not np.signbit(weights[weights == 0]).any()


@pytest.mark.parametrize("family", ["apot-v1", "apot-v2"])
def test_a_stated_sign_of_activations(family: str, tmp_path: Path) -> None:
    path = tmp_path / "network.pth.tar"
    images = write_checkpoint(path, "ResNet-20 (CIFAR)", family, images=1)
    choices = Choices(bits=4, method="uniform", activation_sign="signed")
    original = load_original(path, choices)
    assert original.quantization.signed_activations
    part = {"what": "activation sign", "value": "signed", "source": "option"}
    assert part in stated_parts(original)
    source = capture(original.module, original.architecture.input_shape)
    quantizers = [layer.activation for layer in source.layers.values() if layer.activation]
    assert {(one.lowest_level, one.input_steps) for one in quantizers} == {(-7, 7)}
    assert Choices.of_json(original.choices.to_json()) == original.choices
    check(path, images.numpy(), choices)
    for choices in (
        Choices(bits=4, method="apot", activation_sign="signed"),
        Choices(bits=4, method="uniform", activation_sign="signed", legacy_divisor=True),
    ):
        with pytest.raises(BitWidthError, match="does not apply"):
            load_original(path, choices)


@pytest.mark.parametrize("name", SMALL)
def test_full_precision(name: str, tmp_path: Path) -> None:
    path = tmp_path / "network_32bit.pth.tar"
    images = write_checkpoint(path, name, "full-precision", images=1)
    check(path, images.numpy(), Choices())


def test_activations_have_levels_below_0_where_training_clipped_from_above_only(
    tmp_path: Path,
) -> None:
    path = tmp_path / "network.pth.tar"
    for family, method in (("apot-v1", "apot"), ("apot-v2", "uniform"), ("apot-v1", "uniform")):
        write_checkpoint(path, "MobileNetV2", family)
        original = load_original(path, Choices(bits=8 if method == "uniform" else 4, method=method))
        source = capture(original.module, original.architecture.input_shape)
        lowest = {
            name: layer.activation.lowest_level
            for name, layer in encode_network(source).layers.items()
            if layer.activation is not None
        }
        signed = (family, method) == ("apot-v1", "uniform")
        # It reads what no ReLU follows; the next layer reads a ReLU's results.
        assert (lowest["features.2.conv.0.0"] < 0) == signed
        assert lowest["features.2.conv.1.0"] == 0


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("ResNet-20 (CIFAR)", "fc.weight"),
        ("ResNet-50 (ImageNet)", "conv1.weight"),
        ("MobileNetV2", "classifier.1.weight"),
        ("VGG-small", "classifier.6.weight"),
        ("LeNet5", "features.0.weight"),
    ],
)
def test_what_is_unknown_is_compared_with_what_is_known(name: str, missing: str) -> None:
    shapes = {key: tuple(value.shape) for key, value in NETWORKS[name][0]().state_dict().items()}
    del shapes[missing]
    shapes["added.weight"] = (3,)
    with pytest.raises(RecognitionError, match="no known architecture") as caught:
        architectures.recognise(shapes)
    assert f"{name} comes closest" in caught.value.what
    assert caught.value.got == f"for {name} {missing} (missing); added.weight (unknown)"


def test_block_numbers_beyond_the_tensors_of_a_file_describe_no_network() -> None:
    shapes = {
        "conv1.weight": (16, 3, 3, 3),
        "fc.weight": (10, 64),
        **{f"layer{stage}.9999.conv1.weight": (16, 16, 3, 3) for stage in (1, 2, 3)},
    }
    with pytest.raises(RecognitionError, match="no known architecture"):
        architectures.recognise(shapes)


def test_a_grid_of_exponent_zero_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "network_2bit.pth.tar"
    write_checkpoint(path, "ResNet-20 (CIFAR)", "nonzero", images=1)
    original = load_original(path, Choices(grid="nonzero", z=0))
    with pytest.raises(BitWidthError, match="Z of the non-zero grid is out of range"):
        capture(original.module, original.architecture.input_shape)


@pytest.mark.parametrize(
    ("family", "choices", "option"),
    [
        ("apot-v1", Choices(bits=4, legacy_divisor=True), "--legacy-divisor"),
        ("apot-v2", Choices(bits=4, alpha_terms=2), "--alpha-terms"),
        ("full-precision", Choices(normalize_weights=False), "--no-weight-normalization"),
        ("full-precision", Choices(unsigned_zeros=True), "--unsigned-zeros"),
        (
            "full-precision",
            Choices(layer_bits=(LayerBits(pattern="*", weight_bits=3, activation_bits=3),)),
            "--layer-bits",
        ),
    ],
)
def test_options_that_say_nothing_of_a_network_are_refused(
    family: str, choices: Choices, option: str, tmp_path: Path
) -> None:
    path = tmp_path / "network.pth.tar"
    write_checkpoint(path, "ResNet-14 (MNIST)", family, images=1)
    with pytest.raises(BitWidthError, match="does not apply") as caught:
        load_original(path, choices)
    assert caught.value.fix == f"leave out {option}"
