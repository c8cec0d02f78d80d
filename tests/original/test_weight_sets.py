"""Checkpoints that hold several sets of weights: none is taken silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import apot_export
from apot_export.artifacts.directory import read_manifest
from apot_export.errors import CheckpointError
from apot_export.original.checkpoint import load_checkpoint
from tests.support.commands import run
from tests.support.workshop import DIGITS

Tensors = dict[str, torch.Tensor]
KEY = "module.fc.bias"


@pytest.fixture(scope="module")
def content(project: Path) -> dict[str, Any]:
    return dict(torch.load(project / DIGITS, weights_only=True, map_location="cpu"))


@pytest.fixture
def averaged(content: dict[str, Any]) -> Tensors:
    """Return other weights of the same network."""
    state = content["state_dict"]
    return {**state, KEY: state[KEY] + 1}


def saved(path: Path, **content: Any) -> Path:
    torch.save(content, path / "res8_4bit.pth.tar")
    return path / "res8_4bit.pth.tar"


@pytest.mark.parametrize("name", ["state_dict_ema", "ema", "model_ema", "swa_state_dict"])
def test_several_sets_are_listed_and_one_is_chosen(
    content: dict[str, Any], averaged: Tensors, name: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, **content, **{name: averaged})
    with pytest.raises(CheckpointError, match="several sets") as caught:
        load_checkpoint(path)
    keys = len(averaged)
    assert caught.value.got == f"state_dict ({keys} keys), {name} ({keys} keys)"
    for weights, state in (("state_dict", content["state_dict"]), (name, averaged)):
        loaded = load_checkpoint(path, weights)
        assert torch.equal(loaded.state["fc.bias"], state[KEY])
        assert loaded.record is not None
    with pytest.raises(CheckpointError, match="no set of weights of this name") as caught:
        load_checkpoint(path, "emma")
    assert f"{name} ({keys} keys)" in str(caught.value)


def test_keys_that_are_no_text_name_no_weights(
    content: dict[str, Any], averaged: Tensors, tmp_path: Path
) -> None:
    state = {**content["state_dict"], 4: torch.zeros(2)}
    path = saved(tmp_path, **{**content, "state_dict": state}, ema=averaged)
    with pytest.raises(CheckpointError, match="several sets"):
        load_checkpoint(path)


def test_averages_of_pytorch_and_sets_one_level_down(
    content: dict[str, Any], averaged: Tensors, tmp_path: Path
) -> None:
    counted = {"n_averaged": torch.tensor(7), **averaged}
    path = saved(tmp_path, **content, swa=counted, ema={"decay": 0.999, "shadow": averaged})
    with pytest.raises(CheckpointError, match="several sets") as caught:
        load_checkpoint(path)
    assert caught.value.fix is not None
    assert "--weights swa or --weights ema.shadow" in caught.value.fix
    for weights in ("swa", "ema.shadow"):
        state = load_checkpoint(path, weights).state
        assert "n_averaged" not in state
        assert torch.equal(state["fc.bias"], averaged[KEY])


def test_one_set_is_taken_wherever_it_is(
    content: dict[str, Any], averaged: Tensors, tmp_path: Path
) -> None:
    other = {"statistics": {"mean": torch.zeros(3)}, "optimizer": {"state": {0: averaged}}}
    path = saved(tmp_path, **{**content, **other})
    assert torch.equal(load_checkpoint(path).state["fc.bias"], content["state_dict"][KEY])
    path = saved(tmp_path, net=averaged)
    for weights in (None, "net"):
        loaded = load_checkpoint(path, weights)
        assert torch.equal(loaded.state["fc.bias"], averaged[KEY])
        assert (loaded.notes, loaded.bare) == (("weights from 'net'",), False)
    torch.save(averaged, path)
    with pytest.raises(CheckpointError, match="no set of weights"):
        load_checkpoint(path, "net")


def test_the_command_line(content: dict[str, Any], averaged: Tensors, tmp_path: Path) -> None:
    path, export = saved(tmp_path, **content, state_dict_ema=averaged), tmp_path / "export"
    for verb in (("convert", path, "-o", export), ("inspect", "identify", path)):
        result = run(*verb)
        assert result.exit_code == 2
        assert "state_dict_ema (" in result.output
    weights = ("--weights", "state_dict_ema")
    assert run("convert", path, "-o", export, *weights).exit_code == 0
    assert run("inspect", "identify", path, *weights).exit_code == 0
    assert run("inspect", "alphas", path, *weights).exit_code == 0
    assert read_manifest(export)["choices"]["weights"] == "state_dict_ema"
    options = ("--device", "cpu", "--limit", 20, "--ignore-record")
    result = run("verify", export, *options, "--json")
    assert (result.exit_code, json.loads(result.stdout)["verdict"]) == (0, "PASS")
    result = run("verify", export, *options, "--weights", "state_dict")
    assert (result.exit_code, "fc" in result.output) == (1, True)
    assert apot_export.convert(path, export, weights="state_dict", force=True).bits == 4
