"""The command that tunes an export, on the machine that there is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from apot_export.artifacts.directory import (
    MANIFEST,
)
from apot_export.errors import DeviceError
from apot_export.runtimes import deployment
from apot_export.runtimes.deployment import Deployment
from apot_export.tuning._tune import tune
from apot_export.verification import verify
from tests.support.commands import (
    CHECKPOINT,
    EXPORT,
    document,
    here,
    run,
    typed,
)
from tests.support.tuning_machine import (
    contents,
    manifest_of,
    refused,
    tuned,
)


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
        (["nowhere"], "no such export"),
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
