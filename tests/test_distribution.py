"""What is published: source distribution, wheel, and the wheel installed beside numpy alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.support.pages import ROOT, blocks

PACKED = ROOT / "conformance/valid/example-of-the-specification.apot.safetensors"


def build(kind: str, source: Path, folder: Path) -> Path:
    script = f"from setuptools import build_meta as b; print(b.build_{kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {script}", str(folder)],
        cwd=source,
        capture_output=True,
        text=True,
        check=True,
    )
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository's files, without what tests and builds leave in it."""
    if not (ROOT / ".git").exists():
        pytest.skip("what belongs to the repository is what git says, and this is no clone")
    git = shutil.which("git")
    assert git
    command = [git, "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    copy = tmp_path_factory.mktemp("repository")
    for name in filter(None, listed.stdout.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def sources(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the source distribution unpacks to."""
    folder = tmp_path_factory.mktemp("sources")
    with tarfile.open(build("sdist", repository, folder)) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", sources, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def slim(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the programs of an environment with the wheel and numpy, and nothing else."""
    folder = tmp_path_factory.mktemp("slim")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    here = Path(np.__path__[0]).parent
    for path in [here / "numpy", *here.glob("numpy.libs")]:
        (packages / path.name).symlink_to(path)
    pip(folder, "--no-deps", str(wheel)).check_returncode()
    return folder / "bin"


def pip(environment: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--python", str(environment / "bin/python"), "install"]
    return run([*command, "--quiet", "--no-index", *arguments])


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    environment["PIP_CONFIG_FILE"] = os.devnull
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def files_of(folder: Path) -> set[str]:
    """Return the paths of a folder's files, without what setuptools notes while it builds."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith("apot_export.egg-info/")}


def test_the_source_distribution_is_the_repository(sources: Path, repository: Path) -> None:
    assert files_of(sources) - {"PKG-INFO", "setup.cfg"} == files_of(repository)


def test_the_wheel_has_the_packages_and_the_documents(wheel: Path, repository: Path) -> None:
    (data, information) = (f"{wheel.name.rsplit('-', 3)[0]}.{end}" for end in ("data", "dist-info"))
    documents = f"{data}/data/share/doc/apot-export/"
    places = {"apot_export/": "apot_export/", "apot_export_cli/": "cli/", documents: ""}
    found = set()
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not name.startswith(f"{information}/"):
                start = next(place for place in places if name.startswith(place))
                found.add(places[start] + name.removeprefix(start))
    wanted = {
        name
        for name in files_of(repository)
        if name.startswith(("apot_export/", "cli/", "docs/"))
        or (name.endswith(".md") and "/" not in name)
    }
    assert found == wanted


def test_without_other_packages_help_says_what_works(slim: Path) -> None:
    done = run([str(slim / "apot-export"), "--help"])
    assert (done.returncode, done.stderr) == (0, "")
    assert "apot_export.load_packed" in done.stdout
    interpreter = Path(done.stdout.split()[-1])
    assert {path.name for path in interpreter.iterdir()} == {"apot_integer.c", "apot_integer.h"}


def test_without_other_packages_a_verb_says_what_to_install(slim: Path) -> None:
    done = run([str(slim / "apot-export"), "convert", "model.pth.tar"])
    assert (done.returncode, done.stdout) == (2, "")
    (stated,) = blocks("docs/install.md", "console")
    line, _, error = stated.partition("\n")
    assert line == "$ apot-export convert model.pth.tar"
    assert done.stderr == error.replace("/path/to/.venv", str(slim.parent))
    followed = pip(slim.parent, "apot-export")
    assert "no matching distribution found for jinja2" in followed.stderr.lower()


def test_numpy_suffices_for_packed_files(slim: Path) -> None:
    script = (
        "import apot_export, sys\n"
        f"network = apot_export.load_packed({str(PACKED)!r}).network\n"
        "layer = network.layers['conv']\n"
        "print(layer.weights().shape)\n"
        "print(type(apot_export.compile_network(network)).__name__)\n"
        "try: apot_export.convert\n"
        "except apot_export.ApotExportError as error: print(error.got)"
    )
    done = run([str(slim / "python"), "-c", script])
    assert done.stderr == ""
    weights, compiled, missing = done.stdout.splitlines()
    assert (weights, compiled) == ("(2, 2, 1, 1)", "FastNetwork")
    assert missing.startswith("No module named")


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['apot-export', 'convert', 'missing.pth.tar']\n"
        "sys.modules['onnx'] = sys.modules['torch'] = None\n"
        "from apot_export_cli.main import run; run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: A package that this needs is not installed.\n")
    assert "torch" in done.stderr or "onnx" in done.stderr
