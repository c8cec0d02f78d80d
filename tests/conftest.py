"""Where reference data comes from, and the settings of property tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import apot_export
from apot_export.runtimes import onnx_runtime
from tests.support.commands import CHECKPOINT, EXPORT, run
from tests.support.published import Shelf

REFERENCE_VARIABLE = "APOT_EXPORT_REFERENCE"

settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Let sessions of ONNX Runtime have one thread unless a test states more.

    Workers share the processors, and threads that wait for work keep them busy.
    """
    options = onnx_runtime._options

    def of_one_thread(threads: int, profile: str) -> Any:
        return options(threads or 1, profile)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_runtime, "_options", of_one_thread)
        yield


@pytest.fixture(scope="session", autouse=True)
def cache_of_kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep compiled kernels among the tests' files where no home folder can hold them."""
    with pytest.MonkeyPatch.context() as patch:
        if not os.access(os.path.expanduser("~"), os.W_OK):  # noqa: PTH111 - there may be none
            patch.setenv("APOT_EXPORT_CACHE", str(tmp_path_factory.mktemp("kernels")))
        yield


@pytest.fixture(scope="session")
def reference() -> Path:
    """Return the folder of published checkpoints, datasets and golden outputs."""
    project = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get(REFERENCE_VARIABLE, project.parent / "shared"))
    if not (folder / "golden").is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI must have the reference data; {folder} has none")
        pytest.skip(f"no reference data in {folder}; set {REFERENCE_VARIABLE}")
    return folder


@pytest.fixture(scope="session")
def shelf(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Return the exports of the published checkpoints, for all workers; no test changes them."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    (folder / "published").mkdir(exist_ok=True)
    return Shelf(reference=reference, folder=folder / "published")


@pytest.fixture(scope="session")
def project() -> Path:
    """Return the project's root folder."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """Return a folder with a checkpoint and its export."""
    folder = tmp_path_factory.mktemp("original")
    source = project / "examples" / "digits" / "res8_4bit" / "model_best.pth.tar"
    shutil.copy(source, folder / CHECKPOINT)
    assert run("convert", folder / CHECKPOINT, "-o", folder / EXPORT).exit_code == 0
    return folder


@pytest.fixture
def in_process() -> Iterator[None]:
    """Have checkpoints read by this process, which is quicker where there are hundreds."""
    with apot_export.in_process():
        yield


@pytest.fixture
def folder(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, a copy of the original."""
    work = tmp_path / "work"
    shutil.copytree(exported, work)
    monkeypatch.chdir(work)
    monkeypatch.delenv("APOT_EXPORT_DATA", raising=False)
    return work
