"""Manifests that are wrong anywhere: exports are verified and converted again, or refused."""

from __future__ import annotations

import copy
import json
import shutil
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import apot_export
from apot_export.artifacts.directory import MANIFEST, check_files, read_manifest
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.errors import ApotExportError, ExportError
from apot_export.original.choices import Choices
from tests.support.fuzzing import damaged, run_examples, scratch
from tests.support.malformed_networks import mutate
from tests.support.workshop import DIGITS

OUTCOMES: Counter[str] = Counter()
USES = (*["read"] * 8, *["convert"] * 2, "verify")
"""What becomes of a manifest; the others take a hundred times as long as the first."""


@cache
def export(*, with_checkpoint: bool) -> Path:
    """Return an export of the embedded checkpoint, whose manifest names it, there or not."""
    folder = scratch() / str(with_checkpoint)
    folder.mkdir()
    checkpoint = folder / "res8_4bit.pth.tar"
    shutil.copy(Path(__file__).parents[2] / DIGITS, checkpoint)
    integer = None if with_checkpoint else IntegerChoices(fraction_bits=8)
    apot_export.convert(checkpoint, folder / "export", integer=integer)
    if not with_checkpoint:
        checkpoint.unlink()
    images = np.random.default_rng(0).random((2, 1, 8, 8), np.float32)
    np.savez(folder / "images.npz", images=images)
    return folder / "export"


@cache
def manifest_of(directory: Path) -> str:
    return (directory / MANIFEST).read_text()


@given(st.data())
def check_that_manifests_are_read_or_refused(data: st.DataObject) -> None:
    directory = export(with_checkpoint=data.draw(st.booleans()))
    manifest = json.loads(manifest_of(directory))
    for _ in range(data.draw(st.integers(1, 2))):
        manifest = mutate(data, copy.deepcopy(manifest))
    content = json.dumps(manifest).encode()
    if data.draw(st.integers(0, 15)) == 0:
        content = damaged(data, content)
    (directory / MANIFEST).write_bytes(content)
    use = data.draw(st.sampled_from(USES))
    try:
        if use == "read":
            check_files(directory, read_manifest(directory))
        elif use == "convert":
            apot_export.convert_export(directory, directory.parent / "again", force=True)
        else:
            images = directory.parent / "images.npz"
            backends = "numpy,c" if "False" in directory.parts else None
            apot_export.verify(directory, images=images, backends=backends, attach=False, workers=0)
    except ApotExportError:
        OUTCOMES["refused"] += 1
    else:
        OUTCOMES["read"] += 1
    finally:
        (directory / MANIFEST).write_text(manifest_of(directory))


def test_manifests_are_read_or_refused() -> None:
    OUTCOMES.clear()
    run_examples(check_that_manifests_are_read_or_refused, 60)
    assert min(OUTCOMES["read"], OUTCOMES["refused"]) > 3, OUTCOMES


FOUND: list[tuple[str, object]] = [
    ("family", None),
    ("family", ["apot-v1"]),
    ("family", True),
    ("architecture", 3),
    ("choices", []),
    ("choices alpha_terms", None),
    ("choices unsigned_zeros", 0),
    ("record", {}),
    ("record", {"key": "best_prec", "value": "f6d1"}),
    ("integer", [8]),
    ("integer fraction_bits", "8"),
    ("integer normalisation", {"mean": [0.5], "std": 1}),
]
"""Members and values, which were read later than they were checked."""


@pytest.mark.parametrize(("place", "value"), FOUND)
def test_members_of_a_wrong_type_are_refused(place: str, value: object) -> None:
    directory = export(with_checkpoint=False)
    manifest = json.loads(manifest_of(directory))
    *keys, last = place.split()
    parent = manifest
    for key in keys:
        parent = parent[key]
    parent[last] = value
    (directory / MANIFEST).write_text(json.dumps(manifest))
    try:
        with pytest.raises(ExportError, match="manifest is damaged"):
            read_manifest(directory)
    finally:
        (directory / MANIFEST).write_text(manifest_of(directory))


@pytest.mark.parametrize("choice", ["method", "grid", "bits", "layer_bits", "legacy_divisor"])
def test_choices_of_a_wrong_type_are_refused(choice: str) -> None:
    sound = Choices(bits=4)
    assert Choices.of_json(sound.to_json()) == sound
    for value in (["apot"], {"a": 1}, 1.5):
        with pytest.raises(TypeError):
            Choices.of_json({**sound.to_json(), choice: value})
