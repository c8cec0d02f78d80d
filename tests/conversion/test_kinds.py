"""Forward passes of every kind: converted and equal to the module, or refused with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import apot_export
from apot_export.artifacts.directory import ONNX_MODEL, PACKED_MODEL
from apot_export.artifacts.packed import load_packed
from apot_export.downstream import load
from apot_export.errors import ApotExportError
from apot_export.original.choices import Choices
from apot_export.original.custom import original_of_module
from apot_export.original.primitives import tensors_of
from apot_export.verification.proof.proofs import prove_export
from tests.support.kinds import (
    CONVERTED,
    HEIGHT,
    REFUSED,
    WIDTH,
    network_around,
    with_statistics,
)
from tests.support.showcase import NETWORKS
from tests.support.supported import FILE, content

SHAPE = (3, HEIGHT, WIDTH)
STEPS = {f"{group}: {kind}": s for group, kinds in CONVERTED.items() for kind, s in kinds.items()}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_network_of_every_kind_is_the_same_everywhere(step: Any, tmp_path: Path) -> None:
    require_same_everywhere(network_around(step), tmp_path / "export", SHAPE)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_whole_networks_are_the_same_everywhere(make: Any, tmp_path: Path) -> None:
    torch.manual_seed(7)
    network = with_statistics(make())
    require_same_everywhere(network, tmp_path / "export", (3, 18, 16))


def require_same_everywhere(network: nn.Module, folder: Path, shape: tuple[int, int, int]) -> None:
    result = apot_export.convert(network, folder, input_shape=shape)
    images = torch.randn((6, *shape), generator=torch.Generator().manual_seed(5))

    packed = load_packed(result.path)
    model = onnx.load(result.path / ONNX_MODEL)
    onnx.checker.check_model(model)
    original = original_of_module(network, shape, Choices())
    proofs = prove_export(original.module, model, packed.network, images.numpy(), "cpu")
    assert proofs.failures == ()
    assert proofs.levels.compared
    assert proofs.levels.values_compared

    with torch.no_grad():
        expected = [tensor.numpy() for tensor in tensors_of(network(images))]
    reader = load(result.path / PACKED_MODEL)
    values = reader.trace(images.numpy())
    for name, wanted in zip((reader.output, *reader.further_outputs), expected, strict=True):
        scale = np.abs(wanted).max()
        assert values[name].shape == wanted.shape
        # Levels that float noise moves change a few values, never the rest.
        assert np.isclose(values[name], wanted, rtol=1e-3, atol=1e-4 * scale).mean() > 0.8


@pytest.mark.parametrize(("step", "says"), REFUSED.values(), ids=REFUSED)
def test_the_rest_is_refused_by_name(step: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(ApotExportError, match=says):
        apot_export.convert(network_around(step), tmp_path / "export", input_shape=SHAPE)
    assert not (tmp_path / "export").exists()


def test_the_document_of_what_is_supported_is_that_of_the_table() -> None:
    assert FILE.read_text(encoding="utf-8") == content()
