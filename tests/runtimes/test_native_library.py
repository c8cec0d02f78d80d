"""The library of native kernels: what it refuses, its memory, and what it needs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from apot_export.errors import DatasetError, KernelError
from apot_export.network.codebook import apot, uniform
from apot_export.runtimes.native import compile_network
from apot_export.runtimes.native._library import Library, compile_kernels
from tests.support.networks import Builder, quantizer
from tests.support.random_coded_networks import two_layers
from tests.support.sanitizers import run_sanitized

pytestmark = pytest.mark.skipif(
    not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(compile_kernels(tmp_path_factory.mktemp("kernels"), ("-O1",)))


# --- refusals -------------------------------------------------------------------------------------


def test_levels_beyond_a_byte_are_refused_by_name() -> None:
    network = two_layers(apot(3, signed=True), apot(6, signed=False), 0)
    with pytest.raises(KernelError, match="layer1") as caught:
        compile_network(network)
    assert caught.value.got == "a level of 448"


def test_weights_beyond_16_bits_and_sums_beyond_32_are_refused() -> None:
    network = two_layers(uniform(15, signed=True), apot(2, signed=False), 0)
    with pytest.raises(KernelError, match="16 bits"):
        compile_network(network)
    builder = Builder(image=(600, 1, 1))
    inputs = quantizer(uniform(8, signed=False), 1.0)
    value = builder.convolution("image", 1, (1, 1), uniform(15, signed=False), inputs)
    with pytest.raises(KernelError, match="int32"):
        compile_network(builder.finished(value))


def test_kernels_that_are_not_there_are_refused(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = two_layers(apot(3, signed=True), apot(3, signed=False), 0)
    with pytest.raises(KernelError, match="no such kernels"):
        compile_network(network, kernels="abacus", library=library)
    monkeypatch.setenv("APOT_EXPORT_KERNELS", "plain")
    assert compile_network(network, library=library).kernels == "plain"
    with pytest.raises(KernelError, match="1 to 64"):
        compile_network(network, threads=0, library=library)


def test_no_compiler_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(KernelError, match="no C compiler"):
        compile_kernels(tmp_path)


def test_a_compiler_that_fails_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="refused a kernel") as caught:
        compile_kernels(tmp_path, ("-DLANES=", "-Werror"))
    assert str(caught.value.where).endswith(".c")


def test_images_of_another_shape_are_refused(library: Library) -> None:
    network = two_layers(apot(3, signed=True), apot(3, signed=False), 0)
    fast = compile_network(network, library=library)
    with pytest.raises(DatasetError, match="input shape"):
        fast.run(np.zeros((1, 3, 7, 7), dtype=np.float32))
    assert fast.run(np.zeros((0, 3, 7, 6), dtype=np.float32)).shape == (0, 4)


# --- the library ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_the_kernels_stay_in_their_memory_and_never_race(tmp_path: Path, sanitizers: str) -> None:
    found = json.loads(run_sanitized("native_sanitized.py", tmp_path, sanitizers))
    assert found["networks"] == 11
    assert found["files"] > 25
    if sanitizers != "thread":
        assert found["refused plans"] > 75
        assert found["sound plans"] > 75


def test_packed_files_run_with_numpy_alone(folder: Path) -> None:
    heavy = ["torch", "torchvision", "onnx", "onnxruntime", "typer", "rich", "safetensors"]
    script = (
        f"import sys\nfor name in {heavy!r}: sys.modules[name] = None\n"
        "import numpy as np, apot_export\n"
        "network = apot_export.load_packed('res8_4bit').network\n"
        "images = np.zeros((2, *network.input_shape), np.float32)\n"
        "print(apot_export.compile_network(network).run(images).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.stdout.strip() == "(2, 10)", done.stderr
