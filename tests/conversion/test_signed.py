"""Signed activations, end to end: a custom network that is quantized on normalised images.

Its first layer reads the images, its second what no ReLU follows. One training code clips at both
thresholds, the other from above only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import apot_export
from apot_export import downstream
from apot_export.artifacts.directory import ONNX_MODEL
from apot_export.artifacts.onnx_model.lowering import TARGETS
from apot_export.artifacts.packed import load_packed
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.encoding import encode
from apot_export.errors import BitWidthError, KernelError, RecognitionError
from apot_export.network import ActivationQuantizer, oracle
from apot_export.original.choices import Choices
from apot_export.original.custom import original_of_module
from apot_export.original.parts import stated_parts
from apot_export.original.quantization import CLIPPED_ABOVE
from apot_export.runtimes.native import compile_network
from apot_export.runtimes.onnx_runtime import open_session
from apot_export.verification.report import Report
from tests.support.training_codes import make, make_from_images

SHAPE = (1, 8, 8)
KINDS = ("signed", "uniform")


def images(count: int = 32) -> Any:
    """Return images of either sign, some of them beyond every threshold."""
    return np.random.default_rng(3).normal(0, 2.5, (count, *SHAPE)).clip(-7, 7).astype(np.float32)


def checked(kind: str, export: Path, given: Any = None, **options: Any) -> Report:
    """Verify an export on images, whose labels do not matter."""
    path = export.parent / "images.npz"
    given = images() if given is None else given
    np.savez(path, images=given, labels=np.zeros(len(given), dtype=np.int64))
    return apot_export.verify(
        export, original=make_from_images(kind=kind), images=path, device="cpu", **options
    )


def exported(kind: str, folder: Path, **options: Any) -> Path:
    network = make_from_images(kind=kind)
    return apot_export.convert(network, folder / "export", input_shape=SHAPE, **options).path


def signs(kind: str, **options: Any) -> dict[str, str]:
    plan = original_of_module(make_from_images(kind=kind), SHAPE, Choices(**options)).plan
    return {name: quantization.activation_sign for name, quantization in plan.layers.items()}


def test_signs_are_recognised_by_what_layers_compute() -> None:
    assert signs("signed") == {"first": "signed", "linear": "signed", "last": ""}
    assert signs("uniform") == dict.fromkeys(("first", "linear", "last"), "")
    for kind, says, source in (
        ("signed", "signed, last unsigned", "network"),
        ("uniform", CLIPPED_ABOVE, "family"),
    ):
        parts = stated_parts(original_of_module(make_from_images(kind=kind), SHAPE, Choices()))
        assert {"what": "activation sign", "value": says, "source": source} in parts


def test_a_stated_sign_is_held_to_what_layers_compute() -> None:
    for kind, sign in (("signed", "signed"), ("signed", "unsigned"), ("uniform", "unsigned")):
        with pytest.raises(RecognitionError, match="something else"):
            signs(kind, activation_sign=sign)
    with pytest.raises(BitWidthError, match="no such sign"):
        signs("signed", activation_sign="both")
    with pytest.raises(RecognitionError, match="signed uniform"):
        original_of_module(make(kind="v1"), SHAPE, Choices(activation_sign="signed"))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_target_computes_what_was_trained(kind: str, target: str, tmp_path: Path) -> None:
    network = make_from_images(kind=kind)
    export = exported(kind, tmp_path, target=target)
    report = checked(kind, export)
    assert not report.failures
    assert report.weights.exact == report.weights.layers == 4
    assert report.levels.compared
    assert report.levels.unexplained == 0
    session = open_session((export / ONNX_MODEL).read_bytes(), "cpu")
    with torch.no_grad():
        expected = network(torch.from_numpy(images())).numpy()
    agreeing = np.isclose(session.run(images()), expected, rtol=1e-4, atol=1e-4).all(axis=1)
    assert agreeing.mean() > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_every_side_and_the_integer_network(kind: str, tmp_path: Path) -> None:
    export = exported(kind, tmp_path, integer=IntegerChoices())
    report = checked(
        kind,
        export,
        sides="ort,openvino,oracle,packed" + (",native" if kind == "signed" else ""),
        backends="numpy,ort-cpu,c",
    )
    assert not report.failures
    assert report.backends is not None
    found = load_packed(export).network
    lowest = {
        name: one.activation.lowest_level for name, one in found.layers.items() if one.activation
    }
    assert (
        lowest == {"first": -7, "linear": -7, "last": 0}
        if kind == "signed"
        else (lowest["first"] < -15 > lowest["linear"] and lowest["last"] == 0)
    )
    second = downstream.load(next(export.glob("*.safetensors"))).run(images())
    np.testing.assert_allclose(second, oracle.run(found, images()), rtol=1e-4, atol=1e-4)
    if kind == "uniform":  # levels lower than a byte reaches
        with pytest.raises(KernelError, match="bytes"):
            compile_network(found)


# --- planted faults -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_levels_clipped_too_high_are_found(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as fault:
        if kind == "uniform":
            fault.setattr(encode, "with_negative_levels", lambda _, layers: dict(layers))
        else:
            table = ActivationQuantizer.__dict__["table"].func
            lowest = property(lambda one: np.maximum(table(one), min(0, one.lowest_level + 1)))
            fault.setattr(ActivationQuantizer, "table", lowest)
        export = exported(kind, tmp_path)
    report = checked(kind, export)
    assert report.verdict == "FAIL"
    assert report.levels.unexplained
    assert report.divergence is not None
    assert (report.divergence.layer, report.divergence.kind) == ("first", "levels")


def test_images_beyond_the_documented_range_are_not_clipped_silently(tmp_path: Path) -> None:
    export = exported("uniform", tmp_path)
    assert checked("uniform", export).verdict == "PASS"
    report = checked("uniform", export, images(8) - 60)
    assert report.levels.unexplained
    assert report.verdict == "FAIL"
