"""libapot, built and linked as docs/deploy/native.md says, and held to Python's logits."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from apot_export.devices.native import emit_native
from apot_export.errors import ExportError
from apot_export.runtimes.native import compile_network
from tests.support import simulators
from tests.support.pages import ROOT, blocks, run_lines
from tests.support.published import Shelf

FOLDER = ROOT / "build" / "native"
PROGRAM = r"""
#include "apot.h"
#include <cstdio>
#include <vector>

int main(int, char **words)
{
    apot_network *network = nullptr;
    int status = apot_open(&network, words[1], nullptr);
    if (!status) {
        const auto pixels = apot_height(network) * apot_width(network);
        std::vector<float> images(apot_channels(network) * pixels * 761);
        std::vector<float> outputs(apot_outputs(network) * 761);
        if (std::fread(images.data(), 4, images.size(), stdin) != images.size())
            return 2;
        status = apot_run(network, images.data(), 761, outputs.data(), 3, nullptr);
        std::fwrite(outputs.data(), 4, outputs.size(), stdout);
    }
    std::fputs(apot_message(status), stderr);
    apot_close(network);
    return status;
}
"""
SANITIZED = "-fsanitize=address,undefined -fno-sanitize-recover=all"


def test_every_line_runs() -> None:
    simulators.require("make", "gcc", "g++", "pkg-config")
    shutil.rmtree(FOLDER, ignore_errors=True)
    said = run_lines("".join(blocks("docs/deploy/native.md", "sh")))
    assert "PASS\n" in said
    classes = (FOLDER / "project" / "classes.txt").read_text(encoding="utf-8")
    assert said.endswith(classes)
    assert len(classes.splitlines()) == 8


@pytest.mark.parametrize("flags", ["", SANITIZED])
def test_cifar_images_are_classified_as_python_does(
    shelf: Shelf, tmp_path: Path, flags: str
) -> None:
    simulators.require("make", "gcc", "g++")
    project = tmp_path / "project"
    emit_native(shelf.export("cifar10_res20_4bit"), project)
    (project / "logits.cpp").write_text(PROGRAM, encoding="utf-8")
    optimise = "-O0" if flags else "-O3"
    make = [
        "make",
        "-C",
        str(project),
        "build/libapot.a",
        f"CFLAGS={flags}",
        f"OPTIMISE={optimise}",
    ]
    subprocess.run(make, check=True, capture_output=True)
    command = ["g++", *flags.split(), "logits.cpp", "build/libapot.a", "-pthread", "-o", "logits"]
    subprocess.run(command, check=True, cwd=project)
    images = shelf.images("cifar10_res20_4bit")
    found = subprocess.run(
        [str(project / "logits"), str(project / "network.apot")],
        input=images.astype(np.float32).tobytes(),
        capture_output=True,
        check=True,
    )
    logits = np.frombuffer(found.stdout, dtype=np.float32).reshape(761, 10)
    expected = compile_network(shelf.network("cifar10_res20_4bit")).run(images)
    np.testing.assert_array_equal(logits.view(np.int32), expected.view(np.int32))


def test_projects_appear_whole_or_not_at_all(exported: Path, tmp_path: Path) -> None:
    export, project = exported / "res8_4bit", tmp_path / "project"
    found = emit_native(export, project)
    assert set(found["files"]) == {path.name for path in project.iterdir()}
    assert found["workspace_bytes"] > 0
    with pytest.raises(ExportError, match="exists already"):
        emit_native(export, project)
    assert emit_native(export, project, force=True) == found
