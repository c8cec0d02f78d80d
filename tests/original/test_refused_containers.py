"""Checkpoints that are refused, and the lines of Python that the refusal prints.

Run as they stand, these make a checkpoint of it that converts to the same packed weights.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from apot_export.errors import CheckpointError, UnsafeCheckpointError
from apot_export.original.architectures import recognise
from apot_export.original.checkpoint import load_checkpoint
from tests.support.checkpoint_files import (
    NAME,
    Tensors,
    Writer,
    packed_tensors,
    pickled,
    saved,
)
from tests.support.commands import run


class Part(nn.Module):
    """A module of somebody's training code, with the tensors of a state dict."""

    def __init__(self, state: Tensors) -> None:
        super().__init__()
        for name, part in parts_of(state).items():
            if isinstance(part, dict):
                self.add_module(name, Part(part))
            else:
                self.register_buffer(name, part)


class Average:
    """An average of weights as training codes keep it, which is no module."""

    def __init__(self, state: Tensors) -> None:
        self.shadow = state

    def state_dict(self) -> Tensors:
        return self.shadow


class Options:
    """Options of somebody's training code."""


def parts_of(state: Tensors) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for key, value in state.items():
        first, dot, rest = key.partition(".")
        if dot:
            parts.setdefault(first, {})[rest] = value
        else:
            parts[first] = value
    return parts


REFUSED: dict[str, Writer] = {
    "a module": saved(Part),
    "a module in an old file": saved(Part, _use_new_zipfile_serialization=False),
    "a pickled module": pickled(Part, 4),
    "a module under a key": saved(lambda state: {"epoch": 3, "net": Part(state)}),
    "a module in a tuple": saved(lambda state: (Part(state), 3)),
    "a wrapped module": saved(lambda state: nn.ModuleDict({"module": Part(state)})),
    "an average": saved(lambda state: {"ema": Average(state), "best_prec": np.float64(98.6)}),
    "options": saved(lambda state: {"state_dict": state, "args": Options(), "lr": [np.float32(1)]}),
    "a class": saved(lambda state: {"state_dict": state, "type": [Options, Part]}),
    "options, pickled": pickled(lambda state: {"model": state, "args": Options()}, 2),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_the_printed_lines_make_a_checkpoint_that_converts(
    kind: str, state: Tensors, codes: bytes, tmp_path: Path
) -> None:
    path = tmp_path / NAME
    REFUSED[kind](state, path)
    result = run("convert", path, "-o", tmp_path / "export")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "nothing of it was run" in result.stderr
    assert f"{__name__}." in result.stderr
    with pytest.raises(UnsafeCheckpointError) as caught:
        load_checkpoint(path)
    assert packed_tensors(resaved(caught.value, result.stderr, path), tmp_path) == codes


def resaved(error: CheckpointError, printed: str, path: Path) -> Path:
    """Run the lines that an error prints, and return the file that they write."""
    assert error.fix is not None
    lines = [line.strip() for line in printed.splitlines()][-4:]
    assert lines == error.fix.splitlines()[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of old classes
        exec("\n".join(lines), {})  # noqa: S102 - what the message asks for
    (made,) = set(path.parent.glob("resaved_*"))
    return made


def test_float64_beyond_float32_is_rounded_by_the_printed_lines(
    state: Tensors, codes: bytes, tmp_path: Path
) -> None:
    doubles = {k: v.double() * (1 + 1e-12) if v.ndim == 4 else v for k, v in state.items()}
    torch.save({"net": doubles}, tmp_path / NAME)
    save_file(doubles, tmp_path / "res8_4bit.safetensors")
    for name in (NAME, "res8_4bit.safetensors"):
        path = tmp_path / name
        result = run("convert", path, "-o", tmp_path / "export")
        with pytest.raises(CheckpointError, match="does not fit float32") as caught:
            load_checkpoint(path)
        made = resaved(caught.value, result.stderr, path)
        assert packed_tensors(made, tmp_path / name.partition(".")[2]) == codes
        made.unlink()


def test_torchscript_is_resaved_by_the_printed_lines(state: Tensors, tmp_path: Path) -> None:
    floats = {key: value for key, value in state.items() if "alpha" not in key}
    network = recognise({key: tuple(value.shape) for key, value in floats.items()}).build().eval()
    network.load_state_dict(floats, strict=False)
    path = tmp_path / "script.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of TorchScript
        traced = torch.jit.trace(network, torch.zeros(1, 1, 8, 8))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, path)
    result = run("convert", path)
    with pytest.raises(UnsafeCheckpointError) as caught:
        load_checkpoint(path)
    loaded = load_checkpoint(resaved(caught.value, result.stderr, path))
    assert all(torch.equal(loaded.state[key], value) for key, value in floats.items())


def test_several_networks_are_listed(state: Tensors, tmp_path: Path) -> None:
    path = tmp_path / NAME
    other = {f"{key}.weight": torch.zeros(2) for key in ("a", "b")}
    torch.save({"G": state, "D": other, "optimizer_G": {"state": {0: {"weight": other}}}}, path)
    with pytest.raises(CheckpointError, match="several sets") as caught:
        load_checkpoint(path)
    assert caught.value.got == f"G ({len(state)} keys), D (2 keys)"
    assert list(load_checkpoint(path, "G").state) == list(state)
