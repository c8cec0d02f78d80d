"""Tuning an export: what is written, and what is refused."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from apot_export.artifacts.directory import (
    INTEGER_MODEL,
    MANIFEST,
    ONNX_MODEL,
    PACKED_MODEL,
    read_manifest,
)
from apot_export.artifacts.onnx_model import build_model, lowering, serialise
from apot_export.artifacts.onnx_model.functions import body_of, operator_of
from apot_export.artifacts.packed import load_packed
from apot_export.errors import DeviceError, ExportError, KernelError, PackedFileError, TuningError
from apot_export.network import CodedLayer, CodedNetwork, oracle
from apot_export.runtimes import deployment
from apot_export.runtimes.deployment import Deployment, Logits
from apot_export.runtimes.onnx_runtime import open_session
from apot_export.tuning import TuningResult
from apot_export.tuning._tune import tune, tune_for
from apot_export.verification import verify
from tests.support.commands import (
    CHECKPOINT,
    EXPORT,
    FILES,
    document,
    here,
    replace_file,
    run,
    typed,
)
from tests.support.onnx_values import bodies
from tests.support.tuning_machine import Machine

SLOW, FAST = 2.0, 1.0


def is_cpu(model: onnx.ModelProto) -> dict[str, bool]:
    """Return by layer whether its sums have a body for CPUs."""
    sums = {n.input[1]: bool(body_of(n)) for n in model.graph.node if n.op_type.startswith("Shift")}
    return {name.removesuffix(".levels_of_weights"): value for name, value in sums.items()}


def planted(model: onnx.ModelProto) -> float:
    """Return the time of a model on the made-up machine, where target "cpu" is the fastest."""
    return FAST if all(is_cpu(model).values()) else SLOW


@dataclass(frozen=True, kw_only=True)
class MadeUp(Deployment):
    """ONNX Runtime, whose models take the time that a test says and compute what they compute."""

    runtime: str = "onnxruntime"
    device: str = "cpu"
    threads: int = 1
    batch: int = 2
    machine: Machine = field(default_factory=Machine)
    seconds: Callable[[onnx.ModelProto], float] = planted
    disturb: Callable[[onnx.ModelProto, NDArray[Any]], NDArray[Any]] = lambda _model, value: value
    """Changes logits that a model computes."""
    value: Callable[[str, NDArray[Any]], NDArray[Any]] = lambda _name, value: value
    """Changes a value of the graph."""
    native_seconds: float | None = None
    """Time of the native kernels; None where they cannot be built."""

    def open(self, model: bytes) -> Logits:
        proto = onnx.load_from_string(model)
        session = super().open(model)
        wait = self.machine.takes(self.seconds(proto))

        def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
            wait()
            return self.disturb(proto, session(images))

        return logits

    def open_native(self, network: CodedNetwork) -> Logits:
        if self.native_seconds is None:
            raise KernelError("There is no C compiler.")
        wait = self.machine.takes(self.native_seconds)

        def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
            wait()
            return oracle.run(network, images)

        return logits

    def values(self, model: bytes, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return {
            name: self.value(name, value) for name, value in super().values(model, images).items()
        }


def tuned(
    place: Deployment | None = None, directory: Path = EXPORT, **options: Any
) -> TuningResult:
    place = place or MadeUp()
    assert isinstance(place, MadeUp)
    defaults: dict[str, Any] = {
        "seconds": 1e5,
        "output": None,
        "force": False,
        "progress": lambda *_: None,
    }
    return tune_for(place, directory, clock=place.machine.clock, **{**defaults, **options})


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def manifest_of(directory: Path = EXPORT) -> dict[str, Any]:
    return read_manifest(directory)


def model_of(directory: Path = EXPORT) -> onnx.ModelProto:
    return onnx.load(directory / ONNX_MODEL)


# --- what is written ------------------------------------------------------------------------------


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


# --- what is refused ------------------------------------------------------------------------------


def refused(error: type[Exception], match: str, call: Callable[[], object]) -> None:
    """Require an error, and that nothing changed."""
    before = contents(Path())
    with pytest.raises(error, match=match):
        call()
    assert contents(Path()) == before


@here
@pytest.mark.parametrize("kind", ["levels", "sums"])
def test_one_wrong_integer_is_one_too_many(kind: str) -> None:
    network = load_packed(EXPORT).network
    name = next(
        node.name
        for node in network.nodes
        if type(node.operation).__name__
        == {"levels": "QuantizeActivation", "sums": "Convolution"}[kind]
        and getattr(node.operation, "layer", "") == "layer2.0.conv2"
    )

    def off_by_one(found: str, value: NDArray[Any]) -> NDArray[Any]:
        if found == name:
            value = value.copy()
            value.flat[7] += 1
        return value

    refused(TuningError, "does not compute the network", lambda: tuned(MadeUp(value=off_by_one)))


@here
def test_a_float_beyond_rounding_is_too_many() -> None:
    def wrong(name: str, value: NDArray[Any]) -> NDArray[Any]:
        return value + np.float32(1) if name == "logits" else value

    refused(TuningError, "does not compute the network", lambda: tuned(MadeUp(value=wrong)))


@here
@pytest.mark.parametrize("factor", [-1.0, 2.0, np.nan])
def test_other_logits_of_the_fused_model_are_refused(factor: float) -> None:
    """Every value is right where it is asked for, and wrong where the runtime fuses."""
    place = MadeUp(
        disturb=lambda model, logits: (
            logits * np.float32(factor) if any(is_cpu(model).values()) else logits
        )
    )
    refused(TuningError, "logits are not those", lambda: tuned(place))


@here
@pytest.mark.parametrize("name", [ONNX_MODEL, PACKED_MODEL])
def test_changed_files_are_refused(name: str) -> None:
    data = bytearray((EXPORT / name).read_bytes())
    data[-1] ^= 1
    (EXPORT / name).write_bytes(bytes(data))
    refused(ExportError, "not the one that was written", tuned)
    (EXPORT / name).unlink()
    refused(ExportError, "missing", tuned)


@here
def test_a_consistent_but_damaged_packed_file_is_refused() -> None:
    data = bytearray((EXPORT / PACKED_MODEL).read_bytes())
    data[-1] ^= 1
    replace_file(EXPORT, PACKED_MODEL, bytes(data))
    refused(PackedFileError, "is damaged", tuned)


@here
def test_a_model_that_is_none_is_refused() -> None:
    replace_file(EXPORT, ONNX_MODEL, b"no model")
    refused(ExportError, "cannot be parsed", tuned)


@here
def test_foreign_files_are_never_replaced() -> None:
    (EXPORT / "notes.txt").write_text("mine")
    refused(ExportError, "not of an export", tuned)
    assert tuned(output=Path("elsewhere")).written


@here
@pytest.mark.parametrize("output", ["", ".", CHECKPOINT, f"{CHECKPOINT}/new"])
def test_outputs_that_cannot_be_are_refused_before_anything_runs(output: str) -> None:
    place = MadeUp()
    refused(ExportError, "output", lambda: tuned(place, output=Path(output)))
    assert place.machine.now == 100.0


@here
def test_time_is_needed() -> None:
    refused(TuningError, "takes time", lambda: tune(EXPORT, seconds=0.0))


@here
def test_a_failed_write_leaves_the_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("apot_export.artifacts.directory.os.fsync", full)
    refused(ExportError, "cannot be written", tuned)


# --- the command ----------------------------------------------------------------------------------


@here
def test_the_command_measures_and_says_what_it_did() -> None:
    result = run("tune", EXPORT, "--threads", 1, "--seconds", 1)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert result.stdout.startswith(f"{EXPORT}: ONNX Runtime ")
    assert "the model before" in result.stdout
    assert "target portable" in result.stdout
    assert "native kernels" in result.stdout
    if "tuning" in manifest_of():
        assert "integers equal the oracle's" in " ".join(result.stdout.split())  # wrapped or not
        assert "apot-export verify" in result.stdout
    else:
        assert "Kept the model that was there" in result.stdout
    assert not verify(EXPORT, device="cpu", limit=16).failures


@here
def test_the_newest_export_is_the_default() -> None:
    result = run("tune", "--threads", 1, "--seconds", 1, "-o", "out")
    assert result.exit_code == 0, result.output
    assert result.stderr == f"Tuning {EXPORT} (the newest export here)\n"
    assert (Path("out") / MANIFEST).is_file()


@here
def test_json_is_one_document() -> None:
    found = document("tune", EXPORT, "--threads", 1, "--seconds", 1, "--batch", 3)
    typed(
        found,
        {
            "path": str,
            "runtime": str,
            "runtime_version": str,
            "device": str,
            "cpu": str,
            "threads": int,
            "batch": int,
            "written": bool,
            "ratio": float,
            "noise": float,
            "ratios": dict,
            "milliseconds": dict,
            "target": str,
            "rounds": int,
            "integers": int,
            "verification_dropped": bool,
            "seconds": float,
        },
    )
    assert found["batch"] == 3
    assert found["ratios"].keys() == found["milliseconds"].keys() >= {"before", "cpu", "portable"}
    assert "native" in found["ratios"]


@here
def test_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    found = tune(EXPORT, runtime="openvino", threads=1, seconds=1, output=tmp_path / "out")
    assert found.runtime == "openvino"
    assert set(found.ratios) >= {"before", "openvino", "portable"}
    assert not verify(
        tmp_path / "out", device="cpu", limit=16, sides="openvino", attach=False
    ).failures


@here
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "not an export"),
        ([EXPORT, "--runtime", "tflite"], "no such value of --runtime"),
        ([EXPORT, "--device", "npu"], "no such value of --device"),
        ([EXPORT, "--runtime", "openvino", "--device", "cuda"], "cannot be tuned for this"),
        ([EXPORT, "-o", CHECKPOINT], "exists already"),
        ([EXPORT, "--batch", "0"], "batch"),
        ([EXPORT, "--seconds", "0"], "seconds"),
        ([EXPORT, "--threads", "-1"], "threads"),
    ],
    ids=str,
)
def test_mistakes_have_one_clear_message(arguments: list[object], said: str) -> None:
    before = contents(Path())
    result = run("tune", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert said in result.stderr
    assert "itself failed" not in result.stderr
    assert contents(Path()) == before


@here
def test_no_cuda_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    refused(
        DeviceError, "no CUDA provider", lambda: tune(EXPORT, device="cuda", threads=1, seconds=1)
    )


@here
def test_openvino_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    result = run("tune", EXPORT, "--runtime", "openvino")
    assert result.exit_code == 2
    assert "OpenVINO is not installed." in result.stderr
    assert "pip install" in result.stderr


@here
def test_onnx_runtime_that_is_not_installed() -> None:
    program = (
        "import sys\n"
        "sys.modules['onnxruntime'] = None\n"
        "from apot_export_cli.app import app\n"
        f"app(['tune', '{EXPORT}'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ONNX Runtime is not installed.")


@here
def test_an_export_of_a_network_in_memory_has_no_checkpoint_to_find() -> None:
    manifest = json.loads((EXPORT / MANIFEST).read_text())
    manifest["checkpoint"] = {"path": None, "sha256": None}
    manifest["state_sha256"] = "0" * 64
    (EXPORT / MANIFEST).write_text(json.dumps(manifest))
    assert tuned(output=Path("out")).written
    assert manifest_of(Path("out"))["checkpoint"]["path"] is None


def test_the_processor_has_a_name() -> None:
    assert deployment.processor_name()


@pytest.mark.parametrize(
    "wrong",
    [
        ("tflite", "cpu", 1, 1),
        ("openvino", "cuda", 1, 1),
        ("onnxruntime", "npu", 1, 1),
        ("onnxruntime", "cpu", -1, 1),
        ("onnxruntime", "cpu", 1, 0),
    ],
)
def test_deployments_that_do_not_exist(wrong: tuple[str, str, int, int]) -> None:
    with pytest.raises(DeviceError) as raised:
        Deployment(**dict(zip(("runtime", "device", "threads", "batch"), wrong, strict=True)))  # type: ignore[arg-type]
    assert "openvino on cpu" in (raised.value.expected or "")
    assert wrong[0] in (raised.value.got or "")
