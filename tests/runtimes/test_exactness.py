"""The probe of products: it keeps what is exact, and finds Winograd, TF32 and float16."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from apot_export.artifacts.onnx_model import serialise
from apot_export.artifacts.onnx_model.lowering import TARGETS
from apot_export.artifacts.onnx_model.probe import GIVEN, values_from
from apot_export.artifacts.packed import load_packed
from apot_export.conversion.convert import convert
from apot_export.errors import DeviceError, ExportError
from apot_export.network import CodedLayer, CodedNetwork, Convolution, Linear, Node, oracle
from apot_export.network.comparison import LOGITS
from apot_export.runtimes import exactness
from apot_export.runtimes.deployment import Deployment
from apot_export.runtimes.exactness import FLOAT_BOUND, find_exact
from apot_export.runtimes.onnx_runtime import ALGORITHMS, Session, open_session
from tests.support.networks import every_operation
from tests.support.onnx_values import model_of
from tests.support.random_coded_networks import plane_network
from tests.support.workshop import DIGITS, change_layer

Floats = NDArray[np.float64]
Compute = Callable[[CodedNetwork, Node, NDArray[Any]], "NDArray[Any] | None"]
"""A product as an inexact library computes it; None where it leaves it to others."""


@pytest.fixture(scope="module")
def digits(project: Path, tmp_path_factory: pytest.TempPathFactory) -> CodedNetwork:
    export = convert(project / DIGITS, tmp_path_factory.mktemp("exact") / "digits").path
    return load_packed(export).network


# --- exact ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("batch", [1, 5])
def test_every_body_is_exact_on_cpus(target: str, batch: int, digits: CodedNetwork) -> None:
    for network in (digits, every_operation(), plane_network()):
        found = find_exact(model_of(network, target), network, "cpu", batches=(batch,))
        assert found.wrong is None
        assert found.refused == found.algorithm == {}
        assert 0 < found.largest_error < 0.25
        assert found.shapes > 2


def test_every_integer_of_every_shape_is_compared(digits: CodedNetwork) -> None:
    """Of the nine products, the first layer and the last linear one sum floats."""
    found = find_exact(model_of(digits), digits, "cpu")
    shapes = {}
    for node in digits.nodes:
        operation = node.operation
        if isinstance(operation, (Convolution, Linear)) and node.inputs[0].endswith(".levels"):
            geometry = replace(operation, layer="")
            shape = digits.shapes[node.name]
            shapes[geometry, digits.shapes[node.inputs[0]], shape] = shape
    assert found.shapes == len(shapes) + 2
    assert found.integers == sum(2 * int(np.prod(shape)) for shape in shapes.values())


def test_a_model_with_fixed_batches_is_probed_image_by_image(digits: CodedNetwork) -> None:
    model = model_of(digits)
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    loose = find_exact(model_of(digits), digits, "cpu")
    assert find_exact(model, digits, "cpu", batches=(7,)).integers == loose.integers


def test_a_model_of_another_network_is_wrong_on_any_device(digits: CodedNetwork) -> None:
    layer = digits.layers["layer2.0.conv2"]
    assert isinstance(layer, CodedLayer)
    other = change_layer(digits, layer.name, stored=np.flip(layer.packed))
    found = find_exact(model_of(other), digits, "cpu")
    assert found.wrong is not None
    assert "integers of" in found.wrong
    assert found.says() == found.wrong


def test_a_model_without_the_networks_values_is_refused(digits: CodedNetwork) -> None:
    with pytest.raises(ExportError, match="lacks values") as caught:
        values_from(model_of(digits), {"nothing": "images"})
    assert caught.value.got == "nothing"


# --- inexact --------------------------------------------------------------------------------------

# Winograd's F(4 x 4, 3 x 3): Lavin and Gray, arXiv:1509.09308.
_B = np.array(
    [
        *([4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]),
        *([0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]),
    ]
)
_G = np.array(
    [
        *([1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6]),
        *([1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]),
    ]
)
_A = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


def weights_of(network: CodedNetwork, node: Node) -> Floats:
    assert isinstance(node.operation, (Convolution, Linear))
    layer = network.layers[node.operation.layer]
    found = layer.levels() if isinstance(layer, CodedLayer) else layer.weights()
    return found.astype(np.float64)


def winograd(network: CodedNetwork, node: Node, images: NDArray[Any]) -> NDArray[Any] | None:
    """Compute 3 x 3 convolutions of stride 1 as cuDNN's Winograd does, in float32."""
    if node.operation != Convolution(layer=getattr(node.operation, "layer", ""), padding=(1, 1)):
        return None
    weights = weights_of(network, node)
    if weights.shape[2:] != (3, 3):
        return None
    b, g, a = (matrix.astype(np.float32) for matrix in (_B, _G, _A))
    taps = g @ weights.astype(np.float32) @ g.T
    height, width = images.shape[2:]
    rows, columns = -(-height // 4), -(-width // 4)
    edges = ((0, 0), (0, 0), (1, 4 * rows + 1 - height), (1, 4 * columns + 1 - width))
    padded = np.pad(images.astype(np.float32), edges)
    found = np.zeros((len(images), len(weights), 4 * rows, 4 * columns), dtype=np.float32)
    for row in range(rows):
        for column in range(columns):
            tile = padded[:, :, 4 * row : 4 * row + 6, 4 * column : 4 * column + 6]
            sums = np.einsum("ncij,ocij->noij", b @ tile @ b.T, taps)
            found[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = a @ sums @ a.T
    return found[:, :, :height, :width]


def tf32(values: NDArray[Any]) -> Floats:
    """Round to the 11 significant bits that TF32 keeps."""
    mantissas, exponents = np.frexp(values.astype(np.float64))
    return np.ldexp(np.round(mantissas * 2**11), exponents - 11)


def rounding_factors(
    network: CodedNetwork, node: Node, images: NDArray[Any]
) -> NDArray[Any] | None:
    """Compute any product of factors rounded as tensor cores round them."""

    def product(rows: NDArray[Any], chosen: NDArray[Any]) -> NDArray[Any]:
        return tf32(rows) @ tf32(chosen).T

    weights = weights_of(network, node)
    if isinstance(node.operation, Linear):
        return product(images, weights)
    assert isinstance(node.operation, Convolution)
    return oracle.convolve(node.operation, images, weights, product)


def half_sums(network: CodedNetwork, node: Node, images: NDArray[Any]) -> NDArray[Any] | None:
    """Compute any product with its sums in float16."""
    found = rounding_factors(network, node, images)
    return None if found is None else found.astype(np.float16)


class Inexact(Session):
    """A session on a library that computes products in its own way."""

    network: CodedNetwork
    compute: Compute

    def run_named(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        found = super().run_named(inputs)
        for node in self.network.nodes:
            name = LOGITS if node.name == self.network.output else node.name
            if name not in found:
                continue
            source = "images" if node.inputs[0] == self.network.input else node.inputs[0]
            made = self.compute(self.network, node, inputs[source + GIVEN])
            if made is not None:  # integers are cast, so cut off
                found[name] = made.astype(found[name].dtype)
        return found


def device_of(
    monkeypatch: pytest.MonkeyPatch, network: CodedNetwork, *ways: Compute | None
) -> list[Any]:
    """Let "cuda" compute by each of these ways in turn; return what was opened."""
    opened: list[Any] = []

    def opening(content: bytes, device: str, **options: Any) -> Session:
        algorithm = options.pop("algorithm")
        opened.append((device, algorithm))
        session = open_session(content, "cpu", threads=options["threads"])
        way = ways[list(ALGORITHMS).index(algorithm)] if device == "cuda" else None
        if way is None:
            return session
        inexact = Inexact(session=session.session, provider=session.provider, options={})
        object.__setattr__(inexact, "network", network)
        object.__setattr__(inexact, "compute", way)
        return inexact

    monkeypatch.setattr(exactness, "open_session", opening)
    return opened


@pytest.mark.parametrize("batches", [(2,), (3,), (1, 4)])
def test_inexact_algorithms_are_refused_in_order(
    monkeypatch: pytest.MonkeyPatch, digits: CodedNetwork, batches: tuple[int, ...]
) -> None:
    opened = device_of(
        *(monkeypatch, digits),
        *(winograd, half_sums, rounding_factors, None, None, None),
    )
    found = find_exact(model_of(digits), digits, "cuda", batches=batches)
    assert opened == [("cuda", algorithm) for algorithm in ALGORITHMS[:4]]
    assert found.algorithm == ALGORITHMS[3]
    assert found.name == "EXHAUSTIVE with a small workspace"
    assert found.wrong is None
    assert list(found.refused) == ["HEURISTIC", "HEURISTIC with a small workspace", "EXHAUSTIVE"]
    wrong = list(found.refused.values())
    assert "integers of" in wrong[0]  # Winograd's fractions
    assert "err by" in wrong[2]  # TF32 keeps levels, and rounds the first layer's input
    assert "HEURISTIC does not: " in found.says()


def test_a_device_that_keeps_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, digits: CodedNetwork
) -> None:
    opened = device_of(monkeypatch, digits, *[winograd] * len(ALGORITHMS))
    with pytest.raises(DeviceError, match="No convolution algorithm") as caught:
        find_exact(model_of(digits), digits, "cuda")
    assert [device for device, _ in opened] == ["cuda"] * 6 + ["cpu"]
    assert "DEFAULT with a small workspace: " in (caught.value.got or "")


def test_every_batch_is_probed(monkeypatch: pytest.MonkeyPatch, digits: CodedNetwork) -> None:
    """A library that chooses another algorithm for the batch of what is left."""

    def large_batches(
        network: CodedNetwork, node: Node, images: NDArray[Any]
    ) -> NDArray[Any] | None:
        return winograd(network, node, images) if len(images) > 4 else None

    device_of(monkeypatch, digits, large_batches, None, None, None, None, None)
    assert find_exact(model_of(digits), digits, "cuda", batches=(2, 3)).algorithm == ALGORITHMS[0]
    assert find_exact(model_of(digits), digits, "cuda", batches=(2, 5)).algorithm == ALGORITHMS[1]


def test_a_library_that_stops_is_refused(
    monkeypatch: pytest.MonkeyPatch, digits: CodedNetwork
) -> None:
    def stops(*_: object) -> None:
        raise ExportError("stop", got="CUDNN_STATUS_NOT_SUPPORTED")

    device_of(monkeypatch, digits, stops, None, None, None, None, None)
    found = find_exact(model_of(digits), digits, "cuda")
    assert found.algorithm == ALGORITHMS[1]
    assert found.refused == {"HEURISTIC": "CUDNN_STATUS_NOT_SUPPORTED"}


def test_a_wrong_model_is_not_the_devices_fault(
    monkeypatch: pytest.MonkeyPatch, digits: CodedNetwork
) -> None:
    layer = digits.layers["layer2.0.conv2"]
    assert isinstance(layer, CodedLayer)
    other = change_layer(digits, layer.name, stored=np.flip(layer.packed))
    device_of(monkeypatch, digits, *[None] * len(ALGORITHMS))
    assert find_exact(model_of(other), digits, "cuda").wrong is not None


def test_a_deployment_keeps_the_networks_integers(
    monkeypatch: pytest.MonkeyPatch, digits: CodedNetwork
) -> None:
    device_of(monkeypatch, digits, winograd, None, None, None, None, None)
    on_cpu, on_cuda = (
        Deployment(runtime="onnxruntime", device=device, threads=1, batch=3)
        for device in ("cpu", "cuda")
    )
    model = serialise(model_of(digits))
    assert on_cpu.keeping(model, digits) is on_cpu
    assert on_cuda.keeping(model, digits).algorithm == ALGORITHMS[1]


# --- the bound of float sums ----------------------------------------------------------------------


@pytest.mark.parametrize("terms", [27, 64 * 9, 512, 512 * 9])
def test_the_bound_tells_float32_from_tf32(terms: int) -> None:
    """Float32 in the worst order, and TF32 in the best, of as few sums as a last layer has."""
    generator = np.random.default_rng(terms)
    images, weights = (generator.normal(0, 1, (64, terms)).astype(np.float32) for _ in range(2))
    wide = images.astype(np.float64), weights.astype(np.float64).T
    allowed = FLOAT_BOUND * np.sqrt(wide[0] ** 2 @ wide[1] ** 2)
    in_order = np.cumsum(images[:, None] * weights[None], axis=2, dtype=np.float32)[..., -1]
    assert (np.abs(in_order - wide[0] @ wide[1]) / allowed).max() < 1 / 2
    rounded = np.abs(tf32(images) @ tf32(weights).T - wide[0] @ wide[1]) / allowed
    assert rounded[:2, :10].max() > 4
    assert rounded.max() > 16


def test_probe_models_hold_products_alone(digits: CodedNetwork) -> None:
    node = next(node for node in digits.nodes if node.name == "layer1.0.conv1.sums")
    model = onnx.load_model_from_string(values_from(model_of(digits), {node.name: node.inputs[0]}))
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == [node.inputs[0] + GIVEN]
    assert [value.name for value in model.graph.output] == [node.name]
    assert [one.op_type for one in model.graph.node] == ["DecodeWeights", "ShiftConv"]
