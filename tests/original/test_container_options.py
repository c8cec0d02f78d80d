"""What a checkpoint's file says of itself beside its weights, and what sizes of images it takes."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import apot_export
from apot_export.errors import BitWidthError
from apot_export.original.checkpoint import Checkpoint, load_checkpoint
from tests.support.checkpoint_files import (
    NAME,
    SETTINGS,
    Tensors,
    beside_a_loss,
)
from tests.support.commands import run
from tests.support.workshop import DIGITS


def bits_of(path: Path, **choices: Any) -> tuple[int, str]:
    result = apot_export.convert(path, path.parent / "export", force=True, **choices)
    return int(result.bits), result.bits_from


def test_options_in_the_file_state_bits(state: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    options: object
    for options in ({"bit": 4}, argparse.Namespace(w_bits="4", act_bits=4, orbit=3)):
        torch.save({"state_dict": state, "args": options}, path)
        assert bits_of(path) == (4, "checkpoint")
    safe = tmp_path / "model.safetensors"
    save_file(state, safe, {"weight_bits": "4"})
    assert bits_of(safe, **SETTINGS) == (4, "checkpoint")
    for options in ({"bits": 4, "weight_bits": 3}, {"bits": 32}, {"bits": None}, 4):
        torch.save({"state_dict": state, "args": options}, path)
        assert bits_of(path) == (4, "batch-norm statistics")
    named = tmp_path / "res8_3bit.pth"
    torch.save({"state_dict": state, "args": {"bits": 4}}, named)
    with pytest.raises(BitWidthError, match="other bits than its name"):
        bits_of(named)
    assert bits_of(named, bits=4) == (4, "option")


@pytest.mark.parametrize("name", [NAME, "model.pth"])
def test_bits_of_a_network_without_thresholds(name: str, state: Tensors, tmp_path: Path) -> None:
    path = tmp_path / name
    choices = {} if name == NAME else {"bits": 4}
    floats = {key: value for key, value in state.items() if "alpha" not in key}
    torch.save({"state_dict": floats}, path)
    with pytest.raises(BitWidthError, match="no clipping thresholds") as caught:
        bits_of(path, **choices)
    assert "--bits 32" in str(caught.value.fix)
    assert bits_of(path, bits=32) == (32, "option")
    torch.save({"state_dict": {**floats, "layer1.0.conv1.step": torch.ones(1)}}, path)
    with pytest.raises(BitWidthError, match="no clipping thresholds") as caught:
        bits_of(path, **choices)
    assert "layer1.0.conv1.step" in str(caught.value.got)
    assert "--model" in str(caught.value.fix)


def test_names_that_look_like_wrappers_may_be_a_networks_own(
    state: Tensors, tmp_path: Path
) -> None:
    tensors = {f"model.module.{key}": value for key, value in state.items()}
    tensors["model.total_ops"] = torch.zeros(1)
    path = tmp_path / NAME
    torch.save(tensors, path)
    loaded: Checkpoint = load_checkpoint(path)
    assert loaded.state.keys() == state.keys()
    for prefix in ("model.module.", "module.", "model.", ""):
        expected = [prefix + key for key in state]
        assert list(loaded.for_network(expected).state) == expected
    assert loaded.for_network([*tensors]).state.keys() == tensors.keys()


def test_a_network_is_one_part_of_a_training_loop(state: Tensors, tmp_path: Path) -> None:
    path = tmp_path / NAME
    torch.save(beside_a_loss(state), path)
    loaded = load_checkpoint(path)
    assert loaded.state.keys() == state.keys()
    assert loaded.notes == (
        "left out, since it stands beside the network: criterion.weight, criterion.scale.weight",
    )
    loop = loaded.for_network(beside_a_loss(state))
    assert loop.state.keys() == beside_a_loss(state).keys()
    assert loop.notes == ()
    tensors = {f"student.module.{key}": value for key, value in state.items()}
    torch.save({**tensors, **{f"teacher.{key}": value + 1 for key, value in state.items()}}, path)
    student = load_checkpoint(path).for_network([*state])
    assert {key: value.tolist() for key, value in student.state.items()} == {
        key: value.tolist() for key, value in state.items()
    }
    (note,) = student.notes
    assert "teacher." in note
    assert "student." not in note


# --- sizes of images ------------------------------------------------------------------------------


def test_images_of_another_size(project: Path, tmp_path: Path) -> None:
    export = tmp_path / "export"
    result = run("convert", project / DIGITS, "-o", export, "--input-shape", "1,12,10")
    assert "1 x 12 x 10" in result.output
    assert "as given" in result.output
    images = tmp_path / "images.npz"
    generator = np.random.default_rng(1)
    np.savez(images, images=generator.standard_normal((8, 1, 12, 10), np.float32))
    with contextlib.suppress(FileNotFoundError):
        result = run("verify", export, "--images", images, "--device", "cpu")
    assert "PASS" in result.output, result.output
    result = run("convert", project / DIGITS, "-o", export, "--input-shape", "3,8,8", "--force")
    assert (result.exit_code, "leave out --input-shape" in result.output) == (2, True)
    result = run("convert", project / DIGITS, "-o", export, "--force")
    assert "architecture" in result.output
