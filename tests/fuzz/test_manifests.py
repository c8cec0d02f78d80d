"""Manifests that are wrong anywhere: exports are verified and converted again, or refused."""

from __future__ import annotations

import copy
import json
import shutil
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import apot_export
from apot_export.artifacts.directory import MANIFEST
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.errors import ApotExportError
from tests.support.fuzzing import damaged, run_examples, scratch
from tests.support.malformed_networks import mutate
from tests.support.workshop import DIGITS

OUTCOMES: Counter[str] = Counter()


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
    again = data.draw(st.booleans())
    try:
        if again:
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
    run_examples(check_that_manifests_are_read_or_refused, 24)
    assert min(OUTCOMES["read"], OUTCOMES["refused"]) > 3, OUTCOMES
