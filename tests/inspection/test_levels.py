"""Levels and weight errors equal what numpy counts and measures by itself."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import apot_export
from apot_export.artifacts.directory import PACKED_MODEL
from apot_export.errors import ExportError
from apot_export.inspection.levels import levels
from tests.support.commands import CHECKPOINT, EXPORT, document, here, run
from tests.support.random_coded_networks import multi_bit_network


def test_levels_are_those_that_numpy_counts(exported: Path) -> None:
    packed = apot_export.load_packed(exported / "res8_4bit")
    found = apot_export.inspect(exported / "res8_4bit").levels
    assert [layer.layer for layer in found.layers] == [*packed.layers]
    for layer in found.layers:
        stored = packed.layers[layer.layer]
        numbers, counts = np.unique(stored.levels(), return_counts=True)  # type: ignore[union-attr]
        shares = counts / counts.sum()
        used = {level: count for level, count in layer.histogram if count}
        assert used == dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        assert layer.entropy == pytest.approx(-(shares * np.log2(shares)).sum())
        assert layer.zeros == pytest.approx(np.mean(stored.weights() == 0))
        every = set(stored.codebook.levels.tolist())  # type: ignore[union-attr]
        assert set(layer.dead) == every - set(numbers.tolist())
        assert {level for level, _ in layer.histogram} == every
        ends = [min(every), max(every)]
        assert layer.outermost == pytest.approx(np.isin(stored.levels(), ends).mean())  # type: ignore[union-attr]


def test_terms_are_the_powers_of_two_of_weights(exported: Path) -> None:
    """By hand: the digits of APoT's 4-bit levels, 3 and 10 being sums of two powers."""
    of_level = {0: 0, 1: 1, 2: 1, 4: 1, 8: 1, 3: 2, 6: 2, 10: 2}
    packed = apot_export.load_packed(exported / "res8_4bit")
    found = apot_export.inspect(exported / "res8_4bit").levels.of_layer("layer1.0.conv1")
    stored = packed.layers["layer1.0.conv1"].levels()  # type: ignore[union-attr]
    expected = np.mean([of_level[abs(int(level))] for level in stored.reshape(-1)])
    assert found.layers[0].terms == pytest.approx(expected)


def test_sign_vectors_are_counted_by_group() -> None:
    network = multi_bit_network(0, 0, position_major=False)
    for layer in levels(network).layers:
        planes = getattr(network.layers[layer.layer], "planes", None)
        if planes is not None:
            assert sum(groups for _, groups in layer.histogram) == planes.counts.size
            assert sum(n * groups for n, groups in layer.histogram) == planes.filters
            assert layer.terms == pytest.approx(planes.average_bits())


def test_weight_errors_are_those_of_latent_weights(exported: Path) -> None:
    torch = pytest.importorskip("torch")
    state = torch.load(exported / CHECKPOINT, weights_only=True)["state_dict"]
    packed = apot_export.load_packed(exported / "res8_4bit")
    found = apot_export.inspect(exported / "res8_4bit").weights
    assert found.to_json() == apot_export.inspect(exported / CHECKPOINT).weights.to_json()
    for layer in found.layers:
        latent = next(
            tensor.double().numpy()
            for name, tensor in state.items()
            if name.removeprefix("module.") == f"{layer.layer}.weight"
        )
        stored = packed.layers[layer.layer].weights().astype(np.float64)
        before, alpha = latent, packed.layers[layer.layer].alpha  # type: ignore[union-attr]
        if alpha is not None:
            before = (latent - latent.mean()) / latent.std(ddof=1)
            assert layer.clipped == pytest.approx(np.mean(np.abs(before) > abs(alpha)), abs=1e-4)
        else:
            assert layer.clipped is None
        error = np.mean((before - stored) ** 2)
        assert layer.error == pytest.approx(math.sqrt(error), rel=1e-4)
        assert layer.sqnr == pytest.approx(10 * math.log10(np.mean(before**2) / error), rel=1e-4)
        assert layer.latent.deviation == pytest.approx(latent.std())
        assert layer.after.largest == pytest.approx(stored.max())


@here
def test_one_layer_is_shown_level_by_level() -> None:
    content = document("inspect", "levels", EXPORT, "--layer", "layer1.0.conv1")
    assert len(content) == 1
    shown = run("inspect", "levels", EXPORT, "--layer", "layer1.0.conv1").stdout
    assert all(f"{level}" in shown.split() for level, _ in content[0]["histogram"])
    wrong = run("inspect", "levels", EXPORT, "--layer", "layer1.0.con1")
    assert wrong.exit_code == 2
    assert "did you mean layer1.0.conv1?" in wrong.stderr


@here
def test_a_checkpoint_that_moved_is_named() -> None:
    expected = document("inspect", "weights", EXPORT)
    Path(CHECKPOINT).rename("elsewhere.pth.tar")
    gone = run("inspect", "weights", EXPORT)
    assert gone.exit_code == 2
    assert "--checkpoint FILE" in gone.stderr
    found = document("inspect", "weights", EXPORT, "--checkpoint", "elsewhere.pth.tar")
    assert found == expected
    (EXPORT / PACKED_MODEL).rename("alone.safetensors")
    alone = run("inspect", "weights", "alone.safetensors")
    assert "The weights before quantization are in the checkpoint." in alone.stderr


def test_another_checkpoint_is_refused(exported: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    content = torch.load(exported / CHECKPOINT, weights_only=True)
    other = tmp_path / CHECKPOINT
    torch.save({**content, "epoch": 123}, other)
    with pytest.raises(ExportError, match="is not the one that the export was made from"):
        _ = apot_export.inspect(exported / "res8_4bit", checkpoint=other).weights


def test_results_are_short_in_a_notebook(exported: Path) -> None:
    found = apot_export.inspect(exported / "res8_4bit")
    views = (found, found.overview, found.cost, found.levels, found.weights)
    assert all(len(repr(view)) < 200 for view in views)
    for view in views[1:]:
        json.dumps(view.to_json(), allow_nan=False)


def test_nothing_is_refused_with_what_may_be_given(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="There is no such file or folder"):
        apot_export.inspect(tmp_path / "nothing")
    with pytest.raises(ExportError, match="The directory is not an export"):
        apot_export.inspect(tmp_path)
