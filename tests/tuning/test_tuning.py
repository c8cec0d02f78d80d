"""Tuning an export: what is written, and where."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from apot_export.artifacts.directory import (
    INTEGER_MODEL,
    MANIFEST,
    ONNX_MODEL,
    PACKED_MODEL,
)
from apot_export.artifacts.onnx_model import build_model, lowering, serialise
from apot_export.artifacts.onnx_model.functions import operator_of
from apot_export.artifacts.packed import load_packed
from apot_export.errors import ExportError
from apot_export.network import CodedLayer, CodedNetwork, oracle
from apot_export.runtimes.onnx_runtime import open_session
from apot_export.verification import verify
from tests.support.commands import (
    CHECKPOINT,
    EXPORT,
    FILES,
    here,
    replace_file,
    run,
    typed,
)
from tests.support.onnx_values import bodies
from tests.support.tuning_machine import (
    FAST,
    SLOW,
    MadeUp,
    contents,
    is_cpu,
    manifest_of,
    model_of,
    planted,
    refused,
    tuned,
)


@here
def test_the_fastest_target_is_written(folder: Path) -> None:
    packed = (EXPORT / PACKED_MODEL).read_bytes()
    before = model_of()
    found = tuned()
    assert found.written
    assert found.target == "cpu"
    after = model_of()
    assert all(is_cpu(after).values())
    assert found.ratios == {"before": 1.0, "portable": 1.0, "cpu": found.ratio}
    assert found.ratio == pytest.approx(SLOW / FAST)
    assert found.milliseconds["cpu"] == pytest.approx(1000 * FAST)
    expected = build_model(
        load_packed(EXPORT).network, name="x", tool="t 1", metadata={}, target="cpu"
    )
    assert bodies(after) == bodies(expected)
    # Nothing but bodies and the words that name them.
    added = {"One", "KeepChannelsLast"}
    kinds = [operator_of(node) for node in after.graph.node if node.op_type not in added]
    assert kinds == [operator_of(node) for node in before.graph.node]
    assert after.graph.name == before.graph.name
    facts, old = ({p.key: p.value for p in m.metadata_props} for m in (after, before))
    assert facts["apot_export"] == old["apot_export"]
    assert facts["target"] == "cpu"
    assert (EXPORT / PACKED_MODEL).read_bytes() == packed
    assert {path.name for path in EXPORT.iterdir()} == FILES
    assert sorted(path.name for path in folder.iterdir()) == sorted([CHECKPOINT, EXPORT.name])


@here
def test_native_kernels_race_and_are_not_written() -> None:
    found = tuned(MadeUp(native_seconds=FAST / 4))
    assert found.ratios["native"] == pytest.approx(4 * SLOW / FAST)
    assert (found.target, found.written) == ("cpu", True)
    assert manifest_of()["tuning"]["ratios"] == found.ratios
    again = tuned(MadeUp(native_seconds=FAST / 4))
    assert not again.written
    assert again.ratios["native"] == pytest.approx(4.0)


@here
def test_targets_that_the_runtime_refuses_are_left_out() -> None:
    def refuse(model: onnx.ModelProto) -> float:
        if opened and all(is_cpu(model).values()):
            raise ExportError("The runtime refuses the model.")
        opened.append(model)
        return planted(model)

    opened: list[onnx.ModelProto] = []
    found = tuned(MadeUp(seconds=refuse))
    assert not found.written
    assert set(found.ratios) == {"before", "portable"}


@here
def test_a_runtime_that_refuses_every_target_is_an_error() -> None:
    def refuse(_model: onnx.ModelProto) -> float:
        if next(opened) > 1:  # the model that is there, and its copy
            raise ExportError("The runtime refuses the model.")
        return 1.0

    opened = itertools.count()
    refused(ExportError, "refuses", lambda: tuned(MadeUp(seconds=refuse)))


@here
def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    tuned(progress=lambda *what: told.append(what))
    assert [what for what, _, _ in told[:2]] == ["loading models", "rounds"]
    assert told[-1][0] == "comparing with the oracle"
    assert all(0 <= done <= total for _, done, total in told)


@here
def test_the_manifest_agrees_with_the_files() -> None:
    before = manifest_of()
    found = tuned()
    after = manifest_of()
    assert list(after["files"]) == list(before["files"])
    for name, described in after["files"].items():
        data = (EXPORT / name).read_bytes()
        assert described == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert after["files"][ONNX_MODEL] != before["files"][ONNX_MODEL]
    assert after["target"] == found.target == "cpu"
    record = after["tuning"]
    assert record["ratio"] == found.ratio
    assert record["ratios"] == found.ratios
    assert record["threads"] == 1
    assert record["batch"] == 2
    typed(
        record,
        {
            "date": str,
            "runtime": str,
            "runtime_version": str,
            "device": str,
            "cpu": str,
            "gpu": type(None),
            "noise": float,
            "rounds": int,
        },
    )
    rest = {key: value for key, value in after.items() if key not in ("tuning", "files", "target")}
    assert rest == {k: v for k, v in before.items() if k not in ("files", "target")}


@here
def test_the_integers_stay() -> None:
    network = load_packed(EXPORT).network
    images = np.random.default_rng(5).normal(size=(3, *network.input_shape)).astype(np.float32)
    found = tuned()
    session = open_session((EXPORT / ONNX_MODEL).read_bytes(), "cpu")
    np.testing.assert_allclose(
        session.run(images), oracle.run(network, images), rtol=1e-4, atol=1e-3
    )
    quantized = sum(
        isinstance(layer, CodedLayer) and layer.activation is not None
        for layer in network.layers.values()
    )
    assert found.integers > 2 * quantized


@here
def test_a_verdict_on_the_old_model_is_dropped() -> None:
    assert not verify(EXPORT, device="cpu", limit=16).failures
    assert "verification" in manifest_of()
    assert tuned().verification_dropped
    assert "verification" not in manifest_of()


@here
@pytest.mark.parametrize("sides", [None, "ort,native,oracle,packed"])
def test_a_tuned_export_verifies(sides: str | None) -> None:
    assert not tuned().verification_dropped
    report = verify(EXPORT, device="cpu", limit=64, sides=sides)
    assert not report.failures
    assert "tuning" in manifest_of()
    assert "verification" in manifest_of()


@here
def test_an_earlier_tuning_is_kept_unless_it_is_beaten() -> None:
    tuned()
    before = contents(Path())
    again = tuned()
    assert not again.written
    assert again.ratio == pytest.approx(1.0)
    assert contents(Path()) == before
    other = tuned(MadeUp(seconds=lambda model: 30.0 - planted(model)))
    assert (other.target, other.written) == ("portable", True)
    assert not any(is_cpu(model_of()).values())


@here
def test_a_slower_model_is_never_written() -> None:
    before = contents(Path())
    opened = itertools.count()

    def seconds(model: onnx.ModelProto) -> float:
        was_there = next(opened) < 2  # with its copy, opened first
        return 1.0 if was_there else 10 * planted(model)

    found = tuned(MadeUp(seconds=seconds))
    assert not found.written
    assert found.ratio == pytest.approx(0.1)
    assert found.integers == 0
    assert contents(Path()) == before


@here
@pytest.mark.parametrize("sides", [None, "ort,openvino,oracle"])
def test_a_model_of_several_lowerings_still_verifies(
    monkeypatch: pytest.MonkeyPatch, sides: str | None
) -> None:
    """Version 1 of `tune` mixed the bodies of targets, layer by layer."""

    def mixed(network: CodedNetwork, proofs: Any, target: str, **_: Any) -> dict[str, Any]:
        bodies = {
            name: lowering.bodies_of(network, proofs, name) for name in (target, "cpu", "openvino")
        }
        layers = {"layer1": "openvino", "layer2": "cpu"}
        chosen = {}
        for node in network.nodes:
            found = bodies[layers.get(node.name.partition(".")[0], target)]
            if node.name in found:
                chosen[node.name] = found[node.name]
        return chosen

    if sides is not None:
        pytest.importorskip("openvino")
    monkeypatch.setattr("apot_export.artifacts.onnx_model.graph.bodies_of", mixed)
    model = build_model(load_packed(EXPORT).network, name="x", tool="t 1", metadata={})
    assert len(set(bodies(model).values())) > 3
    replace_file(EXPORT, ONNX_MODEL, serialise(model))
    manifest = json.loads((EXPORT / MANIFEST).read_text())
    manifest |= {"target": "tuned", "tuning": {"lowerings": {"layer2.0.conv1": "cpu"}}}
    (EXPORT / MANIFEST).write_text(json.dumps(manifest))
    assert not verify(EXPORT, device="cpu", limit=16, sides=sides).failures


# --- elsewhere ------------------------------------------------------------------------------------


@here
def test_another_directory_gets_the_whole_export(folder: Path) -> None:
    before = contents(EXPORT)
    output = Path("deep/er/tuned")
    found = tuned(output=output)
    assert found.path == output
    assert contents(EXPORT) == before
    assert {path.name for path in output.iterdir()} == FILES
    assert manifest_of(output)["target"] == "cpu"
    report = verify(output, device="cpu", limit=16)  # finds the checkpoint
    assert not report.failures
    with pytest.raises(ExportError, match="exists already"):
        tuned(output=output)
    again = tuned(output=output, force=True)
    assert again.written
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [CHECKPOINT, EXPORT.name, "deep"]
    )


@here
def test_another_directory_gets_a_copy_of_what_was_kept() -> None:
    verify(EXPORT, device="cpu", limit=16)
    found = tuned(MadeUp(seconds=lambda _model: 1.0), output=Path("copy"))
    assert not found.written
    for name in (ONNX_MODEL, PACKED_MODEL):
        assert (Path("copy") / name).read_bytes() == (EXPORT / name).read_bytes()
    assert manifest_of(Path("copy")) == manifest_of()


@here
def test_other_files_of_the_export_stay() -> None:
    options = ("-o", "both", "--integer", "--fraction-bits", 20)
    assert run("convert", CHECKPOINT, *options).exit_code == 0
    integer = (Path("both") / INTEGER_MODEL).read_bytes()
    assert tuned(directory=Path("both")).written
    assert (Path("both") / INTEGER_MODEL).read_bytes() == integer
    assert {path.name for path in Path("both").iterdir()} == {*FILES, INTEGER_MODEL}
    assert not verify(Path("both"), device="cpu", limit=16, backends="numpy,ort-cpu").failures


@here
def test_an_export_behind_a_link() -> None:
    Path("link").symlink_to(EXPORT)
    assert tuned(directory=Path("link")).written
    assert Path("link").is_symlink()
    assert manifest_of()["target"] == "cpu"
