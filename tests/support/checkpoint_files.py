"""Checkpoints as training loops write them, and the weights that they become."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import apot_export
from apot_export.artifacts.directory import PACKED_MODEL

Tensors = dict[str, torch.Tensor]
Writer = Callable[[Tensors, Path], None]
NAME = "res8_4bit.pth"
SETTINGS: dict[str, Any] = {"family": "apot-v1"}
"""Bare state dicts of these keys are of one of two families."""


def saved(make: Callable[[Tensors], object], **options: Any) -> Writer:
    def write(state: Tensors, path: Path) -> None:
        torch.save(make(state), path, **options)

    return write


def pickled(make: Callable[[Tensors], object], protocol: int) -> Writer:
    def write(state: Tensors, path: Path) -> None:
        path.write_bytes(pickle.dumps(make(state), protocol))

    return write


def packed_tensors(checkpoint: Path, folder: Path) -> bytes:
    apot_export.convert(checkpoint, folder / "export", **SETTINGS)
    data = (folder / "export" / PACKED_MODEL).read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]  # the header names the checkpoint


def beside_a_loss(state: Tensors) -> Tensors:
    """Return a network's state as one part of a training loop."""
    return {f"model.{key}": value for key, value in state.items()} | {
        "criterion.weight": torch.ones(10),
        "criterion.scale.weight": torch.ones(2, 2),
    }
