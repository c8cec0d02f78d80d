"""The race against peers: every contestant computes the network that its name says."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from apot_export.artifacts.packed import load_packed
from benchmarks.peers import BASELINE, contestants, noise, race, table


@pytest.mark.filterwarnings("ignore")
def test_every_contestant_runs_and_gives_what_its_kind_gives(
    exported: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    if not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("no C compiler")
    export = exported / "res8_4bit"
    makers = contestants(export, tmp_path, None)
    images = noise(3, load_packed(export).network.input_shape)
    logits = {}
    for name, make in makers.items():
        found = make(3, 1)(images)
        logits[name] = found if isinstance(found, np.ndarray) else np.asarray(found[0])
    scale = np.abs(logits[BASELINE]).max()
    np.testing.assert_allclose(logits["OpenVINO, float32"], logits[BASELINE], atol=scale * 1e-3)
    ours = [found for name, found in logits.items() if name.startswith("apot-export")]
    assert len(ours) == 4
    for found in ours:
        np.testing.assert_allclose(found, ours[0], atol=np.abs(ours[0]).max() * 1e-3)
    results = race(makers, images, 1, 2, "processor")
    assert results[BASELINE]["ratio"] == 1
    assert set(results) == set(makers)
    races = [{"batch": 3, "threads": 1, "contestants": results}]
    text = io.StringIO()
    Console(width=120, file=text).print(table("res8_4bit", races, "processor"))
    assert [name for name in makers if name not in text.getvalue()] == []
