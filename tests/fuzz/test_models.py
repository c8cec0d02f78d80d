"""ONNX models that are changed anywhere: what is proven of them computes the network's numbers."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apot_export.artifacts.onnx_model import build_model, serialise
from apot_export.artifacts.onnx_model.lowering import PLAIN, PORTABLE
from apot_export.artifacts.onnx_model.probe import integers_as_such, parse_model, with_outputs
from apot_export.errors import ApotExportError, ExportError
from apot_export.network import CodedNetwork
from apot_export.network.comparison import compare_oracle
from apot_export.network.logits import expected_logits
from apot_export.runtimes.onnx_runtime import open_session
from apot_export.verification.proof.proofs import prove_export
from tests.support.fuzzing import damaged, run_examples
from tests.support.messages import changed_message
from tests.support.networks import Floats
from tests.support.random_coded_networks import multi_bit_network
from tests.support.random_graphs import exact_images, random_graph

OUTCOMES: Counter[str] = Counter()


@cache
def network_of(name: str) -> CodedNetwork:
    return multi_bit_network(4, 2, position_major=False) if name == "signs" else random_graph(16)


@cache
def model_of(name: str, target: str) -> bytes:
    network = network_of(name)
    return serialise(build_model(network, name="x", tool="t 1", metadata={}, target=target))


@cache
def images_and_logits(name: str, target: str) -> tuple[Floats, Floats]:
    images = exact_images(network_of(name), 6)
    return images, open_session(model_of(name, target), "cpu", threads=1).run(images)


@given(st.data())
def check_that_what_is_proven_is_right(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["signs", "levels"]))
    target = data.draw(st.sampled_from([PORTABLE, PLAIN]))
    images, expected = images_and_logits(name, target)
    content = model_of(name, target)
    try:
        model = parse_model(content)
        for _ in range(data.draw(st.sampled_from([1, 1, 2, 3]))):
            changed_message(data, model)
        content = model.SerializeToString()
        if data.draw(st.integers(0, 9)) == 0:
            content = damaged(data, content)
        model = parse_model(content)
        proofs = prove_export(None, model, network_of(name), images[:2], "cpu")
        expected_logits(network_of(name), images[:2], proofs.values)
    except ApotExportError:
        OUTCOMES["refused"] += 1
        return
    OUTCOMES["failed" if proofs.failures else "proven"] += 1
    if not proofs.failures:
        found = open_session(content, "cpu", threads=1).run(images)
        np.testing.assert_array_equal(found, expected)


def test_what_is_proven_is_right() -> None:
    OUTCOMES.clear()
    run_examples(check_that_what_is_proven_is_right, 150)
    assert min(OUTCOMES[kind] for kind in ("refused", "failed", "proven")) > 4, OUTCOMES


def test_a_sound_model_is_proven() -> None:
    for name in ("signs", "levels"):
        model = onnx.load_model_from_string(model_of(name, PORTABLE))
        images, _ = images_and_logits(name, PORTABLE)
        assert not prove_export(None, model, network_of(name), images[:2], "cpu").failures


def test_a_damaged_statement_is_refused() -> None:
    model = parse_model(model_of("levels", PLAIN))
    (stated,) = (entry for entry in model.metadata_props if entry.key == "stated")
    stated.value = ""
    images, _ = images_and_logits("levels", PLAIN)
    with pytest.raises(ExportError, match="does not hold"):
        prove_export(None, model, network_of("levels"), images[:2], "cpu")


def test_levels_that_are_no_integers_differ() -> None:
    network, (images, _) = network_of("levels"), images_and_logits("levels", PORTABLE)
    model = parse_model(model_of("levels", PORTABLE))
    values = integers_as_such(network, open_session(with_outputs(model), "cpu").run_all(images))
    assert not compare_oracle(network, images, values).mismatches
    name = next(name for name in values if name.startswith("quantize"))
    values[name] = values[name].astype(np.float32) + np.float32(0.5)
    found = compare_oracle(network, images, values)
    assert found.mismatches
    assert any("kinds and shapes" in offender for offender in found.offenders)
