"""Every line of the documents that a reader may type runs, or is listed here with the reason."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer.main

from tests.support.commands import APP, run
from tests.support.pages import ROOT, Block, all_blocks, pages, run_lines, same_output

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RUN_BY = {
    "FORMAT.md": "tests/support/format_vectors.py",
    "conformance/README.md": "tests/conformance/test_kit.py",
    "docs/install.md": "tests/test_distribution.py",
}
"""Pages that tests of their own run, beside those of docs/deploy, which tests/deploy runs."""

NOT_RUN = {
    "make demo": "installs everything; the tutorial runs what it runs",
    "make test": "runs this",
    "make lint": "part of every landing",
    "make docs": "tests/documents/test_site.py builds the site",
    "pip install": "installs",
    "apot-export tune": "takes a minute; tests/tuning races with a machine of its own",
    "found = apot_export.tune": "likewise",
    "torchrun": "tests/verification/test_shards.py holds its counts to those of one process",
    "apot-export verify --dataset cifar10 --data path/to/cifar10": "runs below, with its output",
    "apot-export convert result/res20_4bit/model_best.pth.tar --target cuda": "for a GPU",
    "python -m benchmarks.gpu": "needs a GPU; tests/clients has its dry run",
    "python -m benchmarks.peers": "takes many minutes",
}
"""How lines begin that no test runs. Options of those of apot-export are read nevertheless."""

RES20 = "CIFAR10/result/res20_4bit/model_best.pth.tar"
DIGITS = "examples/digits/res8_4bit/model_best.pth.tar"
EXPORTS = {
    "README.md": {},
    "docs/faq.md": {"res20_4bit": RES20},
    "docs/gpu.md": {},
    "docs/identify.md": {},
    "docs/inspect.md": {"res20_4bit": RES20},
    "docs/native-kernels.md": {"res18_4bit": RES20},
    "docs/performance.md": {},
    "docs/quantization.md": {},
    "docs/targets.md": {"res18_4bit": RES20},
    "docs/tuning.md": {"res18_4bit": RES20},
    "docs/tutorial.md": {},
    "docs/verification.md": {"res8_4bit": DIGITS, "res20": RES20, "unet": "unet.pth.tar"},
}
"""The exports that a page presumes; a ResNet-20 stands in for the ResNet-18."""

UNET = """
from torch import nn
from tests.support.training_codes import FirstConv, LastFC, QuantConvV2

def make(width=16):
    return nn.Sequential(
        FirstConv(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        QuantConvV2(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), LastFC(width, 5),
    )
"""
UNET_OPTIONS = ("--model", "my_package.unet:make", "--model-kwarg", "width=16")
World = Callable[[str], Path]


@pytest.fixture(scope="module")
def shared(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of what readers have: checkpoints, images, a network of their own."""
    world = tmp_path_factory.mktemp("world")
    for name in ("examples", "benchmarks"):
        (world / name).symlink_to(ROOT / name)
    (world / "CIFAR10").symlink_to(reference / "checkpoints/CIFAR10")
    (world / "result").symlink_to(reference / "checkpoints/CIFAR10/result")
    (world / "datasets").symlink_to(reference / "datasets")
    for folder in (reference / "datasets/cifar10-test-head").iterdir():
        if folder.is_dir():
            (world / "data/cifar10" / folder.name).mkdir(parents=True)
            for image in sorted(folder.iterdir())[:1]:
                (world / "data/cifar10" / folder.name / image.name).symlink_to(image)
    for name in ("model_best.pth.tar", "res18_4bit.pth.tar"):
        shutil.copy(world / RES20, world / name)
    (world / "my_package").mkdir()
    (world / "my_package/unet.py").write_text(UNET, encoding="utf-8")
    names: dict[str, Any] = {}
    exec(UNET, names)  # noqa: S102
    torch.manual_seed(0)
    torch.save(names["make"]().state_dict(), world / "unet.pth.tar")
    images = np.random.default_rng(0).random((8, 3, 64, 64), dtype=np.float32)
    np.savez(world / "images.npz", images=images)
    return world


@pytest.fixture
def world(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return a function that makes the current folder that a page presumes."""

    def make(page: str) -> Path:
        folder = tmp_path / "world"
        shutil.copytree(shared, folder, symlinks=True)
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delenv("APOT_EXPORT_DATA", raising=False)
        monkeypatch.setenv("COLUMNS", "100")
        for name, checkpoint in EXPORTS[page].items():
            own = (*UNET_OPTIONS, "--input-shape", "3,64,64") if name == "unet" else ()
            said = run("convert", checkpoint, "-o", name, *own)
            assert said.exit_code == 0, said.output
        return folder

    return make


def why_not(line: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if line.startswith(start)), None)


def run_line(page: str, line: str, folder: Path) -> str:
    """Run a line; one of apot-export in this process, which imports nothing again.

    The README shows alternatives, which may write the same export one after the other.
    """
    if not line.startswith("apot-export ") or set("|;&>") & set(line):
        return run_lines(line, folder)
    replace = ["--force"] if line.startswith("apot-export convert ") and page == "README.md" else []
    said = run(*shlex.split(line, comments=True)[1:], *replace)
    assert said.exit_code == 0, (line, said.output)
    return said.stdout


def run_block(block: Block, folder: Path, names: dict[str, Any]) -> None:
    if block.language in {"sh", "console"}:
        for line, stated in block.lines():
            if why_not(line) is None:
                found = run_line(block.page, line, folder)
                assert block.language == "sh" or same_output(stated, found), f"{line}\n{found}"
    elif block.language == "python":
        if why_not(block.text) is None:
            exec(block.text, names)  # noqa: S102 - of the project's own documents
    else:
        assert block.language == "toml", block
        tomllib.loads(block.text)


@pytest.mark.parametrize("page", EXPORTS)
def test_the_lines_of_a_page_run(page: str, world: World) -> None:
    folder = world(page)
    images = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
    names: dict[str, Any] = {"images": images}
    found = all_blocks(page)
    assert found
    for block in found:
        run_block(block, folder, names)


def parse(line: str) -> None:
    """Read the options of a line of apot-export without running it."""
    command: Any = typer.main.get_command(APP)
    arguments = shlex.split(line, comments=True)[1:]
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    command.make_context("apot-export", arguments)


def not_run() -> list[str]:
    """Return all lines that are not run."""
    found = []
    for page in EXPORTS:
        for block in all_blocks(page):
            lines = [block.text] if block.language == "python" else [x for x, _ in block.lines()]
            found += [line for line in lines if why_not(line)]
    return found


@pytest.mark.parametrize("line", [x for x in not_run() if x.startswith("apot-export ")])
def test_lines_that_are_not_run_have_options_that_exist(line: str) -> None:
    parse(line)


def test_every_reason_is_one_of_a_line() -> None:
    lines = not_run() + [x for b in all_blocks("CONTRIBUTING.md") for x, _ in b.lines()]
    assert [start for start in NOT_RUN if not any(x.startswith(start) for x in lines)] == []


def is_run_elsewhere(page: str) -> bool:
    path = Path(page)
    tests = [ROOT / RUN_BY[page]] if page in RUN_BY else []
    if path.parent == Path("docs/deploy"):
        tests = sorted((ROOT / "tests/deploy").glob("test_*.py"))
    texts = [test.read_text(encoding="utf-8") for test in tests]
    return any(path.name in text or f'"{path.stem}"' in text for text in texts)


@pytest.mark.parametrize("page", pages())
def test_every_page_with_blocks_is_run(page: str) -> None:
    typed = {"sh", "console", "python", "js", "toml", "bash", "vector", ""}
    found = [block for block in all_blocks(page) if block.language in typed]
    left = [block for block in found if not all(why_not(x) for x, _ in block.lines())]
    assert not left or page in EXPORTS or is_run_elsewhere(page), left


def test_no_command_stands_outside_of_a_block() -> None:
    """An indented line of a shell would not be seen by these tests."""
    for page in pages():
        text = (ROOT / page).read_text(encoding="utf-8")
        text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        assert not re.findall(r"^ {4,}(?:apot-export|python3?|make|pip) .*$", text, re.MULTILINE)
