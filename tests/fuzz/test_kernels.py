"""Packed files changed anywhere, on the native kernels: the logits of the oracle, or a refusal."""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apot_export.artifacts.packed import load_packed
from apot_export.errors import ApotExportError
from apot_export.network.logits import compare_logits, expected_logits
from apot_export.runtimes.native import compile_network
from tests.support.fuzzing import run_examples, scratch
from tests.support.packed_parts import changed_file, is_small

OUTCOMES: Counter[str] = Counter()


@given(st.data())
def check_that_kernels_compute_the_same(data: st.DataObject) -> None:
    path = scratch() / "model.apot.safetensors"
    path.write_bytes(changed_file(data))
    images, threads = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    with np.errstate(all="ignore"):  # of numbers that nobody trained
        try:
            network = load_packed(path).check().network
            if not is_small(network.shapes):
                return
            batch = np.full((images, *network.input_shape), 0.5, np.float32)
            batch[-1] = -1.25
            expected = expected_logits(network, batch, {})
            fast = compile_network(network, threads=threads)
        except ApotExportError:
            OUTCOMES["refused"] += 1
            return
        logits = fast.run(batch)
        OUTCOMES["run"] += 1
        if np.isfinite(expected.logits).all() and np.isfinite(expected.allowed).all():
            OUTCOMES["compared"] += 1
            found = compare_logits([lambda: expected], {images: logits})
            assert not found.wrong, found.offenders


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler")
def test_kernels_compute_the_same() -> None:
    OUTCOMES.clear()
    run_examples(check_that_kernels_compute_the_same, 400)
    assert min(OUTCOMES[kind] for kind in ("refused", "run", "compared")) > 40, OUTCOMES
