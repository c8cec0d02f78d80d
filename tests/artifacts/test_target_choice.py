"""Targets: which layer gets which body, and the portable model as it was."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from apot_export.artifacts.onnx_model import OPSET, serialise
from apot_export.artifacts.onnx_model._builder import IR_VERSION
from apot_export.artifacts.onnx_model.functions import (
    CHANNELS_LAST,
    EIGHT_BITS,
    NORMALIZED,
    PATCHES,
    POINTWISE,
    PRODUCT,
    THREE_PARTS,
    WINOGRAD,
)
from apot_export.artifacts.onnx_model.lowering import TARGETS, fits_bytes, tf32_is_exact
from apot_export.conversion.convert import convert
from apot_export.errors import TargetError
from apot_export.network import (
    Add,
    CodedLayer,
    CodedNetwork,
    Convolution,
    Flatten,
    MaxPool,
    Operation,
    QuantizeActivation,
    Relu,
)
from apot_export.network.bounds import FLOAT32_EXACT, accumulator_bound
from apot_export.network.codebook import Codebook, apot, uniform
from tests.support.commands import run
from tests.support.networks import (
    affine,
    coded,
    every_operation,
    network_of,
    quantizer,
    single_linear,
)
from tests.support.onnx_values import assert_every_value_is_the_oracles, bodies, model_of
from tests.support.workshop import DIGITS

FAST = TARGETS[1:]
PORTABLE_BODIES = {WINOGRAD, NORMALIZED}

# --- which body -----------------------------------------------------------------------------------


def convolution(
    book: Codebook, inputs: Codebook, shape: tuple[int, ...], **geometry: Any
) -> CodedNetwork:
    layer = coded("x", shape, book, quantizer(inputs, 1.0))
    channels = shape[1] * geometry.get("groups", 1)
    return network_of(
        [layer],
        [
            ("levels", QuantizeActivation(layer="x"), "image"),
            ("sums", Convolution(layer="x", **geometry), "levels"),
            ("out", affine(shape[0], 0), "sums"),
        ],
        (channels, 5, 5),
    )


@pytest.mark.parametrize(
    ("weights", "inputs", "fits"),
    [
        (apot(4, signed=True), apot(4, signed=False), True),
        (apot(5, signed=True), apot(5, signed=False), True),
        (apot(6, signed=True), apot(5, signed=False), False),  # weights up to 448
        (apot(4, signed=True), apot(6, signed=False), False),  # levels up to 448
        (uniform(8, signed=True), apot(2, signed=False), False),  # weights up to 255
        (uniform(7, signed=True), uniform(7, signed=False), True),  # 2 * 127 * 127 < 2^15
        (uniform(7, signed=True), uniform(8, signed=False), False),  # 2 * 127 * 255 > 2^15
    ],
    ids=str,
)
def test_bytes_carry_what_they_hold(weights: Codebook, inputs: Codebook, *, fits: bool) -> None:
    net = convolution(weights, inputs, (2, 3, 3, 3))
    layer = net.layers["x"]
    assert isinstance(layer, CodedLayer)
    assert fits_bytes(layer) == fits
    assert bodies(model_of(net, "cpu"))["sums"] == (PATCHES if fits else "")
    assert bodies(model_of(net, "openvino"))["sums"] == (EIGHT_BITS if fits else "")


def test_the_cpu_body_follows_the_shape() -> None:
    books = apot(4, signed=True), apot(4, signed=False)
    found = bodies(model_of(convolution(*books, (4, 3, 1, 1)), "cpu"))
    assert found["sums"] == POINTWISE
    assert found["levels"] == found["logits"] == CHANNELS_LAST
    strided = bodies(model_of(convolution(*books, (4, 3, 1, 1), stride=(2, 2)), "cpu"))
    assert strided["sums"] == PATCHES
    grouped = bodies(model_of(convolution(*books, (4, 1, 1, 1), groups=2), "cpu"))
    assert set(grouped.values()) == {""}
    matrix = single_linear(books[0], np.zeros((3, 4), dtype=np.int64), books[1])
    assert bodies(model_of(matrix, "cpu"))["sums"] == PRODUCT


def test_the_portable_body_follows_shape_and_proof() -> None:
    books = apot(4, signed=True), apot(4, signed=False)
    wide = (128, 128, 3, 3)
    found = bodies(model_of(convolution(*books, wide, padding=(1, 1)), "portable"))
    assert found == {
        "x.levels_of_weights": "",
        "levels": "",
        "sums": WINOGRAD,
        "logits": NORMALIZED,
    }
    for shape, geometry in (
        ((127, 128, 3, 3), {}),
        ((128, 127, 3, 3), {}),
        ((128, 128, 1, 3), {}),
        (wide, {"stride": (1, 2)}),
        (wide, {"dilation": (2, 1)}),
        ((128, 128, 3, 3), {"groups": 2}),
    ):
        found = bodies(model_of(convolution(*books, shape, **geometry), "portable"))
        assert found["sums"] == "", (shape, geometry)
    large = convolution(apot(6, signed=True), apot(6, signed=False), wide)
    layer = large.layers["x"]
    assert isinstance(layer, CodedLayer)
    assert accumulator_bound(layer) * 10 >= FLOAT32_EXACT
    assert bodies(model_of(large, "portable"))["sums"] != WINOGRAD


def test_the_range_of_winograds_sums_is_proven() -> None:
    """The largest sums that a layer of a given bound can have stay within what is promised."""
    rng = np.random.default_rng(0)
    book, inputs = apot(4, signed=True), apot(4, signed=False)
    largest = int(inputs.levels.max())
    for kind in range(50):
        codes = rng.integers(0, 1 << book.bits, (4, 3, 3, 3))
        if kind < 3:
            codes[...] = int(np.argmax(book.levels))
            codes[:, :, kind] = int(np.argmin(book.levels))
        layer = coded("x", codes.shape, book, quantizer(inputs, 1.0), codes)
        top, middle, bottom = np.moveaxis(layer.levels().astype(np.int64), 2, 0)
        alone = np.maximum(*(np.abs(taps).sum((1, 2)) for taps in (top, bottom)))
        added = np.abs(top + middle + bottom).sum((1, 2))
        taken = np.abs(top - middle + bottom).sum((1, 2))
        doubled = largest * (2 * alone + 2 * added + taken)
        assert doubled.max() <= 10 * accumulator_bound(layer)


def test_large_accumulators_stay_exact() -> None:
    """Sums beyond 2^24: float32 kernels are split or refused, int32 ones are not."""
    book, inputs = apot(5, signed=True), apot(5, signed=False)
    largest = int(np.argmax(book.levels))
    codes = np.full((2, 4608, 1, 1), largest)
    layer = coded("x", codes.shape, book, quantizer(inputs, 1.0), codes)
    assert accumulator_bound(layer) >= FLOAT32_EXACT
    net = network_of(
        [layer],
        [
            ("levels", QuantizeActivation(layer="x"), "image"),
            ("sums", Convolution(layer="x"), "levels"),
            ("out", affine(2, 0), "sums"),
        ],
        (4608, 1, 1),
    )
    images = np.ones((1, 4608, 1, 1), dtype=np.float32)
    images[0, 0] = 0.01  # an odd sum
    for target in TARGETS:
        assert_every_value_is_the_oracles(net, target, images)
    assert bodies(model_of(net, "openvino"))["sums"] == "split"
    assert bodies(model_of(net, "cpu"))["sums"] == POINTWISE


# --- ONNX Runtime sees what the bodies are written for -------------------------------------------


def optimised_operators(net: CodedNetwork, folder: Path) -> list[str]:
    """Return the operators that ONNX Runtime makes of a network for CPUs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    content = serialise(model_of(net, "cpu"))
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


def test_onnx_runtime_fuses_the_cpu_bodies(tmp_path: Path) -> None:
    book, inputs = apot(4, signed=True), apot(4, signed=False)
    layers = [coded(n, (8, 8, 3, 3), book, quantizer(inputs, 1.0), i) for i, n in enumerate("ab")]
    net = network_of(
        list(layers),
        [
            ("a.levels", QuantizeActivation(layer="a"), "image"),
            ("a.sums", Convolution(layer="a", padding=(1, 1)), "a.levels"),
            ("a.out", affine(8, 0), "a.sums"),
            ("b.levels", QuantizeActivation(layer="b"), "a.out"),
            ("b.sums", Convolution(layer="b", padding=(1, 1)), "b.levels"),
            ("b.out", affine(8, 1), "b.sums"),
            ("flat", Flatten(), "b.out"),
        ],
        (8, 6, 6),
    )
    kinds = optimised_operators(net, tmp_path)
    assert kinds.count("MatMulIntegerToFloat") == 2
    assert kinds.count("Transpose") == 2  # into channels last, and out of it


def test_a_residual_stream_is_transposed_once(tmp_path: Path) -> None:
    book, inputs = apot(3, signed=True), apot(4, signed=False)
    names = "abcd"
    layers = [
        coded(n, (8, 8, 3, 3), book, quantizer(inputs, 1.0), seed) for seed, n in enumerate(names)
    ]
    graph: list[tuple[str, Operation, str]] = [
        ("pool", MaxPool(kernel=(2, 2), stride=(1, 1)), "image")
    ]
    stream = "pool"
    for seed, n in enumerate(names):
        graph += [
            (f"{n}.levels", QuantizeActivation(layer=n), stream),
            (f"{n}.sums", Convolution(layer=n, padding=(1, 1)), f"{n}.levels"),
            (f"{n}.scaled", affine(8, seed), f"{n}.sums"),
            (f"{n}.added", Add(), f"{n}.scaled {stream}"),
            (n, Relu(), f"{n}.added"),
        ]
        stream = n
    net = network_of(list(layers), graph, (8, 7, 7))
    kinds = optimised_operators(net, tmp_path)
    assert kinds.count("MatMulIntegerToFloat") == len(names)
    assert kinds.count("Transpose") == 2
    assert assert_every_value_is_the_oracles(net, "cpu", np.ones((2, 8, 7, 7), np.float32)) > 0


# --- TF32 -----------------------------------------------------------------------------------------


def test_tf32_rounds_no_factor_of_the_cuda_bodies() -> None:
    """The three parts of float inputs are what TF32 holds, and sum to the input."""
    first = coded("x", (4, 3, 3, 3), uniform(8, signed=True, denominator=127), None)
    net = network_of([first], [("sums", Convolution(layer="x"), "image")], (3, 9, 9))
    model = model_of(net, "cuda")
    assert bodies(model)["logits"] == THREE_PARTS
    body = next(f for f in model.functions if f.name == f"IntegerConv_{THREE_PARTS}")
    split = onnx.helper.make_model(
        onnx.helper.make_graph(
            [
                node
                for node in body.node
                if node.op_type in ("Cast", "Sub") and "w" not in node.output
            ],
            "split",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None])],
            [
                onnx.helper.make_tensor_value_info(part, onnx.TensorProto.FLOAT, [None])
                for part in ("high", "middle", "low")
            ],
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    rng = np.random.default_rng(0)
    values = (rng.normal(size=10_000) * 10.0 ** rng.integers(-6, 6, 10_000)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        split.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    parts = session.run(None, {"x": values})
    np.testing.assert_array_equal(parts[0].astype(np.float64) + parts[1] + parts[2], values)
    for part in parts:
        assert not (part.view(np.uint32) & 0x1FFF).any()  # 10 stored bits of significand


@pytest.mark.parametrize(
    ("weights", "exact"),
    [
        (uniform(11, signed=True), True),  # up to 2047
        (uniform(12, signed=True), False),  # up to 4095
    ],
    ids=str,
)
def test_the_cuda_model_says_whether_tf32_is_exact(weights: Codebook, *, exact: bool) -> None:
    net = convolution(weights, apot(4, signed=False), (2, 3, 1, 1))
    assert tf32_is_exact(net) == exact
    properties = {p.key: p.value for p in model_of(net, "cuda").metadata_props}
    assert properties["tf32_exact"] == str(exact).lower()
    assert properties["target"] == "cuda"


def test_float_weights_are_not_tf32() -> None:
    assert not tf32_is_exact(every_operation())


# --- the choice -----------------------------------------------------------------------------------


def test_portable_is_the_default() -> None:
    net = every_operation()
    assert serialise(model_of(net, "portable")) == serialise(model_of(net))
    model = model_of(net)
    assert set(bodies(model).values()) <= {"", *PORTABLE_BODIES}
    assert "target" not in {p.key for p in model.metadata_props}


def test_unknown_targets_are_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError) as raised:
        model_of(every_operation(), "tpu")
    assert raised.value.got == "'tpu'"
    assert all(name in (raised.value.expected or "") for name in TARGETS)
    folder = tmp_path / "export"
    with pytest.raises(TargetError):
        convert(project / DIGITS, folder, target="CPU")
    assert not folder.exists()


@pytest.mark.parametrize("target", TARGETS)
def test_the_command_line_writes_each(target: str, project: Path, tmp_path: Path) -> None:
    arguments = ["convert", str(project / DIGITS), "-o", str(tmp_path / "e"), "--json"]
    if target != "portable":
        arguments += ["--target", target]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["target"] == target
    manifest = json.loads((tmp_path / "e" / "manifest.json").read_text())
    assert manifest["target"] == target
    data = (tmp_path / "e" / "model.onnx").read_bytes()
    assert manifest["files"]["model.onnx"]["sha256"] == hashlib.sha256(data).hexdigest()
    used = {o for o in bodies(onnx.load_from_string(data)).values() if o}
    assert bool(used) == (target != "plain")
    assert (used <= PORTABLE_BODIES) == (target in {"portable", "plain"})


def test_an_unknown_target_on_the_command_line(project: Path, tmp_path: Path) -> None:
    arguments = ["convert", str(project / DIGITS), "-o", str(tmp_path / "e"), "--target", "npu"]
    result = run(*arguments)
    assert result.exit_code == 2
    assert "no such value of --target" in result.output


def test_bodies_cost_little_beside_the_codes(project: Path, tmp_path: Path) -> None:
    sizes = {}
    for target in TARGETS[:-1]:  # plain stores floats
        result = convert(project / DIGITS, tmp_path / target, target=target)
        sizes[target] = result.files["model.onnx"]
    layers = 10
    assert max(sizes.values()) - sizes["portable"] < 2_000 * math.ceil(layers)
