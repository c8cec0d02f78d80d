"""The floors of the house, read off the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOMS = (
    # floor 0
    "errors",
    "significance",
    "memory_plan",
    "_version",
    "codebook",
    "bitpack",
    "digits",
    "rans",
    "on_demand",
    "quantization",
    "planes",
    "targets",
    "operations",
    "layers",
    "network",
    # floor 1
    "bounds",
    "signs",
    "encode_planes",
    "encode",
    "execution",
    "reference",
    "integer",
    "fast",
    "packfile",
    "export_directory",
    "downstream",
    # floor 2
    "naming",
    "dialects",
    "stand_ins",
    "checkpoint",
    "torch_layers",
    "architectures",
    "original",
    "capture",
    "own_networks",
    "onnx_export",
    "runtime",
    "openvino_runtime",
    "datasets",
    "executors",
    # floor 3
    "integer_choices",
    "integer_form",
    "conversion",
    "verification",
    "tuning",
    "report_page",
    "summary",
    "identify",
)
"""Every room may import those before it, and itself."""

FOREIGN = {
    "torch": {
        "downstream",
        "stand_ins",
        "checkpoint",
        "torch_layers",
        "architectures",
        "original",
        "capture",
        "own_networks",
        "executors",
        "conversion",
        "verification",
        "tuning",
        "identify",
    },
    "safetensors": {"downstream"},
    "torchvision": {"datasets", "verification"},
    "PIL": {"datasets"},
    "onnx": {"onnx_export", "integer_form", "conversion", "verification", "tuning"},
    "onnxruntime": {"runtime", "verification"},
    "openvino": {"openvino_runtime"},
    "typer": set[str](),
    "rich": set[str](),
}
"""Foreign libraries and the rooms of apot_export that may import them."""

PACKAGE = Path(__file__).resolve().parent.parent / "apot_export"
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> list[str]:
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if room_of(path) == "downstream" and node.level == 1:
                continue  # users copy this folder, wherever they like
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            if module == "apot_export":
                modules += [f"apot_export.{alias.name}" for alias in node.names]
            else:
                modules.append(module)
    return modules


def test_every_package_is_installed() -> None:
    text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    for found in PACKAGE.rglob("__init__.py"):
        name = ".".join(found.parent.relative_to(PACKAGE.parent).parts)
        assert f'"{name}",' in text, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return  # the public names, imported when used
    for module in imported_modules(path):
        if module.startswith("apot_export."):
            imported = module.split(".")[1]
            assert imported != "__init__"
            assert ROOMS.index(imported) <= ROOMS.index(room), f"{room} imports {imported}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_foreign_libraries_stay_in_their_rooms(path: Path) -> None:
    for module in imported_modules(path):
        library = module.split(".")[0]
        if library in FOREIGN:
            assert room_of(path) in FOREIGN[library], f"{path} imports {library}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_library_never_prints_prompts_or_exits(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"print", "input", "exit", "quit"}, path
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("sys", "exit"), path


def test_verification_never_imports_encoding() -> None:
    for path in (PACKAGE / "verification").glob("*.py"):
        assert "apot_export.encoding.weights" not in imported_modules(path)


def test_dialects_never_import_each_other() -> None:
    folder = PACKAGE / "dialects"
    families = {path.stem for path in folder.glob("[a-z]*.py")}
    for family in families:
        for module in imported_modules(folder / f"{family}.py"):
            assert module.removeprefix("apot_export.original.families.") not in families - {family}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def run_without(modules: list[str], script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter in which some modules cannot be imported."""
    barrier = f"import sys\nfor name in {modules!r}:\n    sys.modules[name] = None\n"
    return subprocess.run(
        [sys.executable, "-c", barrier + script], capture_output=True, text=True, check=False
    )


def test_reading_a_packed_file_needs_numpy_only() -> None:
    heavy = ["torch", "torchvision", "onnx", "onnxruntime", "typer", "rich", "safetensors", "PIL"]
    result = run_without(heavy, "import apot_export; apot_export.load_packed")
    assert result.returncode == 0, result.stderr


def test_inspect_needs_no_torch() -> None:
    result = run_without(
        ["torch", "torchvision", "onnx", "onnxruntime"],
        "import apot_export.inspection.thresholds, apot_export_cli.main, apot_export_cli.inspect",
    )
    assert result.returncode == 0, result.stderr


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, apot_export_cli.main\n"
        "heavy = {'torch', 'torchvision', 'onnx', 'onnxruntime', 'numpy', 'safetensors'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    result = run_without([], script)
    assert result.returncode == 0, result.stderr


def test_conversion_imports_neither_torchvision_nor_a_runtime() -> None:
    """They take a second, which only verification and calibration need."""
    program = "import sys, apot_export.conversion.convert; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, encoding="utf-8"
    )
    assert not {"torchvision", "onnxruntime", "PIL"} & set(done.stdout.split())
