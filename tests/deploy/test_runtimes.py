"""The pages on Python, OpenVINO and ONNX Runtime in C: their lines, run as they stand."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import ROOT, blocks, environment, run_lines

HEADER = ROOT / "tests/support/onnxruntime/onnxruntime_c_api.h"
IN_C = "docs/deploy/onnxruntime.md"


def run_python(page: str) -> list[str]:
    """Run the Python lines of a page in the project's folder; return what they print."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks(page, "python"))],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_python() -> None:
    run_lines(blocks("docs/deploy/python.md", "sh")[0])
    _, right, integers, difference = run_python("docs/deploy/python.md")
    assert right == "right: 8 of 8"
    assert integers == "integers equal: True"
    assert float(difference.rpartition(" ")[2]) < 1e-3


def test_openvino() -> None:
    run_lines(blocks("docs/deploy/openvino.md", "sh")[0])
    assert run_python("docs/deploy/openvino.md") == ["same classes: True", "integers equal: True"]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Return a folder like that of a release of ONNX Runtime, with the library of this one."""
    import onnxruntime

    found = sorted((Path(onnxruntime.__path__[0]) / "capi").glob("libonnxruntime.so*"))
    if not found:
        pytest.skip("ONNX Runtime is not installed as a shared library of Linux")
    for folder in ("include", "lib"):
        (tmp_path / folder).mkdir()
    shutil.copy(HEADER, tmp_path / "include")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / "lib" / name).symlink_to(found[0])
    return tmp_path


@pytest.fixture(scope="module")
def expected_in_c() -> str:
    """Return what Python computes of the export that the page on C makes."""
    run_lines(blocks(IN_C, "sh")[0])
    (expected,) = run_python(IN_C)
    return expected


@pytest.mark.parametrize("compiler", ["gcc", "g++ -x c++"])
def test_onnx_runtime_in_c(compiler: str, release: Path, expected_in_c: str) -> None:
    source = release / "classify.c"
    source.write_text(blocks(IN_C, "c")[0], encoding="utf-8")
    lines = blocks(IN_C, "sh")[1].replace("gcc ", f"{compiler} ", 1)
    lines = lines.replace("classify.c", f'"{source}" -x none')
    lines = lines.replace("-o classify", f'-o "{release}/classify"')
    lines = lines.replace("./classify", f'"{release}/classify"')
    computed = run_lines(f'export ORT="{release}"\n{lines}').strip()
    assert computed.replace("computed:", "expected:") == expected_in_c
