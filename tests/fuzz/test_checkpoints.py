"""Checkpoints that are wrong anywhere: refused, or the tensors that PyTorch reads."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from apot_export.errors import CheckpointError, WeightError
from apot_export.original.checkpoint import Checkpoint, load_checkpoint
from apot_export.original.reading import in_process
from tests.support.checkpoint_parts import changed_checkpoint
from tests.support.fuzzing import run_examples, scratch

OUTCOMES: Counter[str] = Counter()
OTHER = ""
"""Stands for keys that are no text, for which the reader has texts of its own."""


def tensors_of_pytorch(path: Path) -> dict[str, list[torch.Tensor]] | None:
    """Return all tensors that PyTorch's own reader finds, by key; None where it refuses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - whatever it raises
        return None
    found: dict[str, list[torch.Tensor]] = {}
    for key, tensor in _tensors(content, 8):
        found.setdefault(key, []).append(tensor)
    return found


def _tensors(content: Any, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(content, Mapping) and depth:
        for key, value in content.items():
            if isinstance(value, torch.Tensor):
                yield key if isinstance(key, str) else OTHER, value
            else:
                yield from _tensors(value, depth - 1)
    elif isinstance(content, (list, tuple)) and depth:
        for value in content:
            yield from _tensors(value, depth - 1)


def read(path: Path) -> Checkpoint | None:
    try:
        with in_process():  # whose crash would be seen, and which takes a hundredth of the time
            return load_checkpoint(path)
    except (CheckpointError, WeightError):
        return None


@given(st.data())
def check_that_tensors_are_those_of_pytorch(data: st.DataObject) -> None:
    name, content = changed_checkpoint(data)
    path = scratch() / name
    path.write_bytes(content)
    found = read(path)
    OUTCOMES["refused" if found is None else "read"] += 1
    if found is None or path.suffix != ".pth":
        return
    others = tensors_of_pytorch(path)
    if others is None:
        return
    OUTCOMES["compared"] += 1
    for key, tensor in found.tensors.items():
        named = [one for one in others.get(key, others.get(OTHER, [])) if not one.is_sparse]
        same = (
            torch.equal(tensor.nan_to_num(), one.to(tensor.dtype).nan_to_num()) for one in named
        )
        assert any(same), key


def test_tensors_are_those_of_pytorch() -> None:
    OUTCOMES.clear()
    run_examples(check_that_tensors_are_those_of_pytorch, 700)
    assert min(OUTCOMES[kind] for kind in ("read", "refused", "compared")) > 25, OUTCOMES
