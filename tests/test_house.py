"""The rules of the house, read off the imports: see docs/architecture.md."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "_version": set(),
    "arguments": {"errors"},
    "budgets": {"errors"},
    "presentation": {"errors"},
    "network": {"errors"},
    "datasets": {"errors", "budgets"},
    "original": {"arguments", "errors", "budgets", "network"},
    "encoding": {"errors", "network", "original"},
    "integer": {"errors", "network"},
    "artifacts": {"errors", "budgets", "network", "integer"},
    "runtimes": {"errors", "budgets", "network", "integer", "artifacts"},
    "conversion": {
        *("arguments", "errors", "_version", "network", "datasets", "original"),
        *("encoding", "integer", "artifacts", "runtimes"),
    },
    "verification": {
        *("arguments", "errors", "_version", "budgets", "network", "datasets", "original"),
        *("integer", "artifacts", "runtimes", "downstream", "presentation"),
    },
    "inspection": {
        *("arguments", "errors", "_version", "network", "datasets", "original", "encoding"),
        *("artifacts", "verification", "presentation"),
    },
    "tuning": {"arguments", "errors", "_version", "network", "artifacts", "runtimes"},
    "devices": {
        *("errors", "_version", "network", "integer", "artifacts", "runtimes", "conversion"),
    },
    "downstream": set(),
}
"""What each package may import, in the order of the pipeline. A new arrow is a decision."""

FOREIGN = {
    "torch": {
        *("original", "encoding", "runtimes", "conversion", "verification"),
        "inspection.identify",
    },
    "onnx": {"artifacts.onnx_model", "conversion", "verification", "tuning"},
    "onnxruntime": {"runtimes"},
    "openvino": {"runtimes"},
    "torchvision": {"datasets"},
    "PIL": {"datasets", "verification.page"},
    "jinja2": {"presentation"},
    "matplotlib": {"inspection.plots"},
    "safetensors": set[str](),
    "typer": set[str](),
    "rich": set[str](),
}
"""Foreign libraries, and the packages of `apot_export` that may import them."""

NUMPY_ONLY = ("network", "integer", "downstream")
WRITERS = ("encoding", "conversion", "artifacts.packed.writing")
"""What makes exports; of `artifacts.onnx_model`, `verification` may use the doors below."""
READERS_OF_MODELS = {"probe", "openvino_model"}
FAMILIES = {"apot-v1", "apot-v2", "alq", "full-precision"}
"""Names of checkpoint families (`nonzero`, too, which is also the name of a grid)."""
LONGEST_MODULE, LONGEST_FUNCTION = 400, 60

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "apot_export"
FILES = sorted(PACKAGE.rglob("*.py"))
COMMANDS = sorted((ROOT / "cli").glob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


def place_of(path: Path) -> str:
    """Return a module's dotted name below `apot_export`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {place_of(path) for path in FILES}


def imported(path: Path) -> Iterator[str]:
    """Yield the full name of every module that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            for alias in node.names:
                name = f"{module}.{alias.name}"
                known = name.removeprefix("apot_export.") in MODULES
                yield name if known and name.startswith("apot_export.") else module


def imported_places(path: Path) -> Iterator[str]:
    """Yield the modules of `apot_export` that a file imports, without that prefix."""
    for name in imported(path):
        if name.startswith("apot_export."):
            yield name.removeprefix("apot_export.")


def inside(place: str, packages: set[str] | tuple[str, ...]) -> bool:
    return any(place == package or place.startswith(f"{package}.") for package in packages)


@every_file
def test_arrows_are_those_of_the_table(path: Path) -> None:
    package = place_of(path).partition(".")[0]
    if package == "__init__":
        return  # the public names, each imported when it is used
    found = {name.partition(".")[0] for name in imported_places(path)}
    assert found <= ARROWS[package] | {package}


def test_the_table_has_no_circle() -> None:
    order = list(ARROWS)
    for package, targets in ARROWS.items():
        for target in targets - {"downstream"}:  # which imports nothing of the house
            assert order.index(target) < order.index(package), f"{package} imports {target}"


def private_imports(path: Path, package: str) -> list[str]:
    """Return the modules that a file imports although an underscore keeps them for others."""
    found = []
    for name in imported_places(path):
        parts = name.split(".")
        for depth, part in enumerate(parts):
            owner = ".".join(parts[:depth])
            if part.startswith("_") and part != "_version" and not inside(package, {owner}):
                found.append(name)
    return found


@every_file
def test_private_modules_stay_in_their_package(path: Path) -> None:
    place = place_of(path)
    package = place if path.name == "__init__.py" else place.rpartition(".")[0]
    assert private_imports(path, package) == []


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_commands_use_public_modules_only(path: Path) -> None:
    assert private_imports(path, "cli") == []


@every_file
def test_no_import_is_relative(path: Path) -> None:
    if place_of(path).startswith("downstream"):
        return  # users copy this folder wherever they like
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]


@every_file
def test_foreign_libraries_stay_in_their_packages(path: Path) -> None:
    for name in imported(path):
        library = name.partition(".")[0]
        if library in FOREIGN:
            assert inside(place_of(path), FOREIGN[library]), f"imports {library}"
        if inside(place_of(path), NUMPY_ONLY):
            known = {"apot_export", "numpy", *sys.stdlib_module_names}
            assert library in known, f"imports {library}"


def test_verification_shares_nothing_with_what_it_judges() -> None:
    for path in (PACKAGE / "verification").rglob("*.py"):
        for name in imported_places(path):
            assert not inside(name, WRITERS), f"{path} imports {name}"
            if name.startswith("artifacts.onnx_model"):
                assert name.rpartition(".")[2] in READERS_OF_MODELS, f"{path} imports {name}"


def test_families_never_import_each_other() -> None:
    folder = PACKAGE / "original" / "families"
    families = {path.stem for path in folder.glob("[a-z]*.py")}
    for family in families:
        for name in imported_places(folder / f"{family}.py"):
            assert name.removeprefix("original.families.") not in families - {family}


@pytest.mark.parametrize(
    "path",
    [p for p in [*FILES, *COMMANDS] if "families" not in p.parts],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_family_is_named_outside_the_families(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value not in FAMILIES, f"line {node.lineno}: {node.value}"
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute):
            values = [c.value for c in node.comparators if isinstance(c, ast.Constant)]
            assert node.left.attr not in {"name", "family"} or "nonzero" not in values


@every_file
def test_the_library_never_prints_prompts_or_exits(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"print", "input", "exit", "quit"}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("sys", "exit")


@pytest.mark.parametrize("path", [*FILES, *COMMANDS], ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            # The options of a command are a table that typer reads off the parameters.
            first = node.body[0].lineno if path in COMMANDS else node.lineno
            assert (node.end_lineno or 0) - first < LONGEST_FUNCTION, node.name


def modules_loaded_by(script: str) -> set[str]:
    """Return the modules that a script loads in a new interpreter beyond an empty script's."""
    program = (
        f"import json, sys\nbefore = set(sys.modules)\n{script}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(json.loads(done.stdout))


def test_reading_a_packed_file_loads_readers_and_numpy_alone(exported: Path) -> None:
    export = exported / "res8_4bit"
    loaded = modules_loaded_by(
        "import apot_export\n"
        f"network = apot_export.load_packed({str(export)!r})\n"
        "[layer.weights() for layer in network.layers.values()]"
    )
    libraries = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    assert libraries <= {"apot_export", "numpy"}
    own = {name.removeprefix("apot_export.") for name in loaded if name.startswith("apot_export.")}
    assert {name.partition(".")[0] for name in own} <= {
        "errors",
        "_version",
        "budgets",
        "network",
        "artifacts",
    }
    assert not [name for name in own if "writing" in name or "onnx_model" in name]


def test_inspecting_thresholds_loads_no_torch() -> None:
    loaded = modules_loaded_by(
        "import apot_export.inspection.thresholds, apot_export.inspection.widths\n"
        "import apot_export_cli.app, apot_export_cli.inspect"
    )
    assert not {"torch", "torchvision", "onnx", "onnxruntime"} & loaded


def test_help_loads_nothing_heavy() -> None:
    heavy = {"torch", "torchvision", "onnx", "onnxruntime", "numpy", "safetensors"}
    assert not heavy & modules_loaded_by("import apot_export_cli.app")


def test_conversion_loads_neither_torchvision_nor_a_runtime() -> None:
    """They take a second each, and so does PyTorch's compiler, which nothing needs."""
    loaded = modules_loaded_by(
        "import apot_export.conversion.convert\n"
        "from apot_export.original.architectures.resnet import ResNet\n"
        "from apot_export.original.tracing import trace\n"
        "trace(ResNet(blocks=(1, 1, 1), width=2, image=(1, 8, 8), classes=2), (1, 8, 8))"
    )
    assert not {"torchvision", "onnxruntime", "PIL", "torch._dynamo"} & loaded


def test_every_package_and_its_data_are_installed() -> None:
    namespace: dict[str, object] = {}
    source = (ROOT / "setup.py").read_text(encoding="utf-8").replace("setup(", "found = dict(")
    exec(compile(source, "setup.py", "exec"), namespace)  # noqa: S102 - our own file
    arguments = namespace["found"]
    assert isinstance(arguments, dict)
    packages = {".".join(p.parent.relative_to(ROOT).parts) for p in PACKAGE.rglob("__init__.py")}
    assert set(arguments["packages"]) == packages | {"apot_export_cli"}
