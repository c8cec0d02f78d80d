"""The clients, and the environment of each: a virtual environment from PyPI, or npm packages."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

_WITH_NUMPY_1 = "numpy<2"
"""What releases of ONNX Runtime before 1.19 were built with."""


@dataclass(frozen=True)
class Client:
    """A program that reads ONNX files."""

    name: str
    runs: str
    """The function of run.py."""
    packages: tuple[str, ...] = ()
    """Requirements for pip; none: the environment of this interpreter."""
    npm: tuple[str, ...] = ()
    shares: bool = False
    """Whether it sees this interpreter's packages, too: PyTorch takes gigabytes."""
    shows_integers: bool = True
    """Whether values within the graph can be asked for."""

    def interpreter(self, root: Path) -> Path:
        """Return the Python that runs it, its environment built below a folder where it is not."""
        if not self.packages and not self.npm:
            return Path(sys.executable)
        folder = root / self.name.replace(" ", "-")
        stamp = folder / "installed.json"
        wanted = json.dumps([self.packages, self.npm, self.shares, sys.version])
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
            folder.mkdir(parents=True, exist_ok=True)
            self._install(folder)
            stamp.write_text(wanted, encoding="utf-8")
        return folder / "bin" / "python" if self.packages else Path(sys.executable)

    def working_folder(self, root: Path) -> Path | None:
        """Return the folder to run in: Node searches packages from there."""
        return root / self.name.replace(" ", "-") if self.npm else None

    def _install(self, folder: Path) -> None:
        if self.npm:
            (folder / "package.json").write_text("{}", encoding="utf-8")
            _done("npm", "install", "--silent", "--prefix", folder, *self.npm)
            return
        _done(sys.executable, "-m", "venv", folder)
        python = folder / "bin" / "python"
        if self.shares:
            version = f"python{sys.version_info.major}.{sys.version_info.minor}"
            shared = folder / "lib" / version / "site-packages" / "shared.pth"
            shared.write_text(sysconfig.get_path("purelib"), encoding="utf-8")
        _done(python, "-m", "pip", "install", "--quiet", *self.packages)

    def version(self, root: Path) -> str:
        """Return the version of its first package that is installed."""
        if self.npm:
            facts = root / self.name / "node_modules" / self.npm[0] / "package.json"
            return str(json.loads(facts.read_text(encoding="utf-8"))["version"])
        package = (self.packages or (_PACKAGE_OF_THIS[self.runs],))[0]
        name = package.partition("=")[0].partition("[")[0]
        script = f"import importlib.metadata; print(importlib.metadata.version({name!r}))"
        return _done(self.interpreter(root), "-c", script).strip()


def _done(*command: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


_PACKAGE_OF_THIS = {
    "onnx.reference": "onnx",
    "onnxruntime": "onnxruntime-gpu",
    "openvino": "openvino",
}


def _old(version: str) -> Client:
    packages = (f"onnxruntime=={version}", *([_WITH_NUMPY_1] if version < "1.19" else []))
    return Client(f"onnxruntime {version}", "onnxruntime", packages)


_OPTIMIZED = ("onnxruntime", "onnx")

CLIENTS = (
    *map(_old, ("1.17.3", "1.18.1", "1.20.1", "1.23.2", "1.27.0")),
    Client("onnxruntime newest", "onnxruntime", ("onnxruntime",)),
    Client("onnxruntime-web", "onnxruntime-web", npm=("onnxruntime-web",)),
    Client("openvino", "openvino", ("openvino", "numpy")),
    Client("onnx.reference", "onnx.reference"),
    Client("onnx2torch", "onnx2torch", ("onnx2torch",), shares=True),
    Client("tract", "tract", ("tract", "numpy")),
    Client("mnn", "mnn", ("MNN", "numpy", "onnx")),
    Client("tvm", "tvm", ("apache-tvm", "onnx", "numpy")),
    Client("iree", "iree", ("iree-base-compiler[onnx]", "iree-base-runtime", "numpy")),
    Client("qonnx", "qonnx", ("qonnx",)),
    Client("onnxslim", "onnxslim", ("onnxslim", *_OPTIMIZED)),
    Client("onnxsim", "onnxsim", ("onnxsim", *_OPTIMIZED)),
    Client("onnx-graphsurgeon", "onnx-graphsurgeon", ("onnx-graphsurgeon", *_OPTIMIZED)),
)
