"""Forward passes of every kind: converted and equal to the module, or refused with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import apot_export
from apot_export.artifacts.directory import ONNX_MODEL, PACKED_MODEL
from apot_export.artifacts.packed import load_packed
from apot_export.downstream import load
from apot_export.errors import ApotExportError
from apot_export.original.choices import Choices
from apot_export.original.custom import original_of_module
from apot_export.original.observed import tensors_of
from apot_export.verification.proof.proofs import prove_export
from tests.support.kinds import CONVERTED, HEIGHT, REFUSED, WIDTH, network_around

SHAPE = (3, HEIGHT, WIDTH)
STEPS = {f"{group}: {kind}": s for group, kinds in CONVERTED.items() for kind, s in kinds.items()}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_network_of_every_kind_is_the_same_everywhere(step: Any, tmp_path: Path) -> None:
    network = network_around(step)
    result = apot_export.convert(network, tmp_path / "export", input_shape=SHAPE)
    images = torch.randn((6, *SHAPE), generator=torch.Generator().manual_seed(5))

    packed = load_packed(result.path)
    model = onnx.load(result.path / ONNX_MODEL)
    onnx.checker.check_model(model)
    original = original_of_module(network, SHAPE, Choices())
    proofs = prove_export(original.module, model, packed.network, images.numpy(), "cpu")
    assert proofs.failures == ()
    assert proofs.levels.compared
    assert proofs.levels.values_compared

    with torch.no_grad():
        expected = [tensor.numpy() for tensor in tensors_of(network(images))]
    reader = load(result.path / PACKED_MODEL)
    values = reader.trace(images.numpy())
    assert len((reader.output, *reader.further_outputs)) == len(expected)
    for name, wanted in zip((reader.output, *reader.further_outputs), expected, strict=True):
        scale = np.abs(wanted).max()
        assert values[name].shape == wanted.shape
        # Levels that float noise moves change a few values, never the rest.
        assert np.isclose(values[name], wanted, rtol=1e-3, atol=1e-4 * scale).mean() > 0.9


@pytest.mark.parametrize(("step", "says"), REFUSED.values(), ids=REFUSED)
def test_the_rest_is_refused_by_name(step: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(ApotExportError, match=says):
        apot_export.convert(network_around(step), tmp_path / "export", input_shape=SHAPE)
    assert not (tmp_path / "export").exists()
