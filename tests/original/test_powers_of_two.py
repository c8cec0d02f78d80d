"""Float weights that are sums of powers of two: found, stored as codes, and not one changed."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

import apot_export
from apot_export.artifacts.directory import PACKED_MODEL
from apot_export.artifacts.packed import load_packed
from apot_export.conversion.convert import convert
from apot_export.encoding.weights import encode_layer
from apot_export.errors import BitWidthError
from apot_export.inspection.identify import identify
from apot_export.network import CodedLayer, FloatLayer, SourceLayer
from apot_export.network.codebook import apot, uniform
from apot_export.original.architectures.resnet import ResNet
from apot_export.original.powers_of_two import recognise
from apot_export.verification import verify
from tests.support.commands import run

Floats = NDArray[np.float32]
SHAPE = (16, 16, 3, 3)
resnet18 = partial(ResNet, blocks=(2, 2, 2, 2), width=64, image=(3, 224, 224), classes=1000)
resnet8 = partial(ResNet, blocks=(1, 1, 1), width=8, image=(1, 8, 8), classes=10)


def stored(weights: Floats) -> CodedLayer:
    """Return a layer of weights that are recognised; they must decode to what they are."""
    found = recognise(weights)
    assert found is not None
    layer = encode_layer(SourceLayer(name="layer", weight=weights, quantizer=found))
    assert isinstance(layer, CodedLayer)
    assert np.array_equal(layer.weights().view(np.uint32), weights.view(np.uint32))
    np.testing.assert_allclose(layer.levels() * layer.step, weights, rtol=2.0**-22)
    return layer


def drawn(values: list[float], seed: int = 0) -> Floats:
    """Return weights of some values, each of which occurs."""
    rng = np.random.default_rng(seed)
    weights = rng.choice(np.array(values, dtype=np.float32), size=SHAPE).reshape(-1)
    weights[: len(values)] = values
    return weights.reshape(SHAPE)


def rounded_to_powers(module: nn.Module) -> None:
    """Round each layer's weights to eight powers of two, and 0, as INQ does."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            weight = layer.weight.data
            largest = torch.floor(torch.log2(weight.abs().max() * 4 / 3))
            exponent = torch.floor(torch.log2(weight.abs() * 4 / 3)).clamp(largest - 7, largest)
            power = weight.sign() * torch.exp2(exponent)
            weight.copy_(torch.where(weight.abs() < 2.0 ** (largest - 8), 0.0, power))


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ([-0.3, 0.3], 2),
        ([-0.3, 0.0, 0.3], 2),
        ([-0.25, -0.0, 0.0, 0.25], 2),
        ([-2.0, -1.0, 1.0, 2.0], 2),
        ([0.37 * s * 2.0**-k for s in (-1, 1) for k in range(8)], 4),
        ([0.0, *(s * 2.0**-k for s in (-1, 1) for k in range(8))], 5),
        ([0.0, *(s * 2.0**-k for s in (-1, 1) for k in range(15))], 5),
        ([s * 2.0**-k for s in (-1, 1) for k in range(24)], 6),
    ],
)
def test_powers_of_two_take_as_few_bits_as_their_values_need(
    values: list[float], bits: int
) -> None:
    layer = stored(drawn(values))
    assert (layer.codebook.bits, len(layer.codebook.tables)) == (bits, 1)


@pytest.mark.parametrize("book", [apot(n, signed=True) for n in range(2, 7)], ids=str)
def test_exported_additive_powers_take_the_bits_of_their_training(book: object) -> None:
    assert isinstance(book, type(uniform(2, signed=True)))
    unit = book.levels.astype(np.float32) / np.float32(book.denominator)
    layer = stored(drawn((unit * np.float32(1.777)).tolist()))
    assert layer.codebook.bits == book.bits


@pytest.mark.parametrize("bits", range(2, 9))
def test_exported_uniform_weights_take_the_bits_of_their_training(bits: int) -> None:
    steps = 2 ** (bits - 1) - 1
    unit = np.arange(-steps, steps + 1).astype(np.float32) / np.float32(steps)
    assert stored(drawn((unit * np.float32(0.123)).tolist())).codebook.bits == bits


def test_two_powers_of_two_take_the_bits_of_both() -> None:
    """ShiftCNN: two codes of four bits, of which one holds the sign of both."""
    first = [0.0, *(s * 2.0**-k for s in (-1, 1) for k in range(7))]
    second = [0.0, *(s * 2.0**-k for s in (-1, 1) for k in range(1, 8))]
    sums = sorted({a + b for a in first for b in second})
    assert stored(drawn(sums)).codebook.bits == 8


@given(
    st.lists(st.integers(-127, 127), min_size=2, max_size=12, unique=True).filter(any),
    st.floats(2.0**-20, 2.0**10, width=32),
)
def test_any_small_integers_times_a_scale_are_found(levels: list[int], scale: float) -> None:
    values = (np.array(levels, dtype=np.float32) * np.float32(scale)).tolist()
    stored(drawn(values))


def test_zeros_keep_their_signs() -> None:
    weights = drawn([-0.5, -0.0, 0.0, 0.5])
    assert np.array_equal(np.signbit(stored(weights).weights()), np.signbit(weights))


@pytest.mark.parametrize(
    "weights",
    [
        np.random.default_rng(0).normal(size=SHAPE).astype(np.float32),
        np.zeros(SHAPE, dtype=np.float32),
        drawn([-0.3, 0.1234, 0.3]),  # no scale has both as levels
        drawn([1.0, np.nextafter(np.float32(1), np.float32(2))]),  # a rounding apart
        drawn([2.0**-k for k in range(25)]),  # levels beyond 2^24
        drawn([1e-40, 2e-40]),
        np.array([[1.0, 2.0, 4.0], [0.5, -1.0, 0.25]], dtype=np.float32),  # six weights, six values
    ],
)
def test_other_weights_are_left_alone(weights: Floats) -> None:
    assert recognise(weights) is None


def test_a_resnet_18_of_powers_of_two_takes_5_bits_a_weight(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = resnet18()
    rounded_to_powers(module)
    torch.save(module.state_dict(), tmp_path / "resnet18.pth")
    result = convert(tmp_path / "resnet18.pth", tmp_path / "export")
    floats = sum(4 * tensor.numel() for tensor in module.state_dict().values())
    assert result.architecture == "ResNet-18 (ImageNet)"
    assert result.files[PACKED_MODEL] <= 0.2 * floats
    assert {"what": "power-of-two layers", "value": "21 of 21, 5 bits a weight"}.items() <= next(
        part.items() for part in result.assumptions if part["source"] == "found in the weights"
    )
    for name, layer in load_packed(tmp_path / "export").layers.items():
        assert isinstance(layer, CodedLayer)
        assert layer.codebook.bits <= 5
        expected = module.get_parameter(f"{name}.weight").detach().numpy()
        assert np.array_equal(layer.weights().view(np.uint32), expected.view(np.uint32))


def test_a_resnet_18_of_floats_stays_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = resnet18()
    torch.save(module.state_dict(), tmp_path / "resnet18.pth")
    result = convert(tmp_path / "resnet18.pth", tmp_path / "export")
    assert (result.weights, result.first_last) == (0, "float")
    for name, layer in load_packed(tmp_path / "export").layers.items():
        assert isinstance(layer, FloatLayer)
        expected = module.get_parameter(f"{name}.weight").detach().numpy()
        assert np.array_equal(layer.weights().view(np.uint32), expected.view(np.uint32))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint for small images with layers of powers of two and one of floats."""
    torch.manual_seed(0)
    module = resnet8()
    rounded_to_powers(module)
    nn.init.normal_(module.get_submodule("layer2.0.conv1").get_parameter("weight"))
    path = tmp_path_factory.mktemp("mixed") / "mixed.pth"
    torch.save(module.state_dict(), path)
    return path


def test_beside_powers_of_two_no_layer_is_rounded(mixed: Path, tmp_path: Path) -> None:
    """First and last layers of such networks have 8 bits in the codes of the family."""
    result = convert(mixed, tmp_path / "export")
    said = {part["what"]: (part["value"], part["source"]) for part in result.assumptions}
    assert said["power-of-two layers"][0].startswith("9 of 10")
    assert said["first and last layer"] == ("float", "found in the weights")
    trained = torch.load(mixed)
    for name, layer in load_packed(tmp_path / "export").layers.items():
        assert isinstance(layer, FloatLayer) == (name == "layer2.0.conv1")
        expected = trained[f"{name}.weight"].numpy()
        assert np.array_equal(layer.weights().view(np.uint32), expected.view(np.uint32))
    report = verify(tmp_path / "export", dataset="digits", limit=50, sides="ort,native,packed")
    assert report.verdict == "PASS"
    assert report.weights.exact == 10


def test_first_and_last_layers_are_rounded_where_the_user_says_so(
    mixed: Path, tmp_path: Path
) -> None:
    convert(mixed, tmp_path / "export", first_last="8bit")
    layers = load_packed(tmp_path / "export").layers.values()
    denominators = [layer.codebook.denominator for layer in layers if isinstance(layer, CodedLayer)]
    assert denominators == [127, *[1] * 7, 127]
    assert verify(tmp_path / "export", dataset="digits", limit=50).verdict == "PASS"


def test_they_are_not_looked_for_where_the_user_says_so(mixed: Path, tmp_path: Path) -> None:
    shown = run("convert", mixed, "-o", tmp_path / "off", "--power-of-two-layers", "off")
    assert "power-of-two" not in shown.stdout
    kinds = [layer.kind for layer in apot_export.inspect(tmp_path / "off").bits.layers]
    assert kinds == ["codes", *["float"] * 8, "codes"]
    assert verify(tmp_path / "off", dataset="digits", limit=50).verdict == "PASS"
    with pytest.raises(BitWidthError, match="power-of-two-layers perhaps"):
        convert(mixed, tmp_path / "other", power_of_two_layers="perhaps")


def test_inspect_names_them(mixed: Path, tmp_path: Path) -> None:
    found = identify(mixed)
    assert found.power_of_two_layers["fc"] <= 5
    assert len(found.power_of_two_layers) == len(found.to_json()["power_of_two_layers"]) == 9
    assert "layer1.0.conv1 (" in run("inspect", "identify", mixed).stdout
    convert(mixed, tmp_path / "export")
    kinds = [layer.kind for layer in apot_export.inspect(tmp_path / "export").bits.layers]
    assert kinds.count("powers of two") == 9
    assert kinds.count("float") == 1


def test_custom_networks_have_them_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    rounded_to_powers(module[:1])
    result = convert(module, tmp_path / "export", input_shape=(1, 8, 8))
    assert result.weights == 72
    first, last = load_packed(tmp_path / "export").layers.values()
    assert isinstance(first, CodedLayer)
    assert isinstance(last, FloatLayer)
    report = verify(tmp_path / "export", original=module, dataset="digits", limit=20)
    assert report.verdict == "PASS"


def test_the_example_trains_such_a_network(project: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "inq_digits.pth.tar"
    script = project / "examples" / "train_powers_of_two.py"
    command = [sys.executable, str(script), str(checkpoint), "--epochs", "1"]
    subprocess.run(command, check=True, capture_output=True)
    result = convert(checkpoint, tmp_path / "export")
    assert result.weights == 19464
    assert result.code_bits <= 5 * result.weights
    report = verify(tmp_path / "export", dataset="digits", sides="ort,native,oracle,packed")
    assert report.verdict == "PASS"
    assert report.export.top1 is not None
    assert report.export.top1 > 0.8
