"""The conformance kit: its files are those that its script writes, and readers agree."""

from __future__ import annotations

import ast
import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load as load_safetensors

from apot_export import downstream
from apot_export.artifacts.packed import load_packed
from apot_export.errors import PackedFileError
from apot_export.network import CodedLayer, oracle
from apot_export.runtimes.interpreter import OpenProgram
from conformance.generate import FOLDER, FOLDERS, SUFFIX, kit
from tests.support.format_vectors import SPECIFICATION, file_bytes
from tests.support.javascript import READER, results

VALID = sorted((FOLDER / "valid").glob(f"*{SUFFIX}"))
PROGRAMS = sorted((FOLDER / "programs").glob(f"I*{SUFFIX}"))
INVALID = sorted((FOLDER / "invalid").glob(f"*{SUFFIX}"))
Array = NDArray[Any]


def name_of(path: Path) -> str:
    return path.name.removesuffix(SUFFIX)


every_valid_file = pytest.mark.parametrize("path", VALID, ids=name_of)


def expected(path: Path) -> Any:
    return json.loads(path.with_name(f"{name_of(path)}.json").read_text(encoding="utf-8"))


def floats(words: str) -> NDArray[np.float32]:
    return np.array([int(word, 16) for word in words.split()], dtype="<u4").view("<f4")


def test_the_checker_of_the_readme_runs_as_it_stands() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    checker = program.replace("import my_reader", "from apot_export import downstream as my_reader")
    done = subprocess.run(
        [sys.executable, "-c", checker],
        cwd=FOLDER.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= len(INVALID)


# --- the files ------------------------------------------------------------------------------------


def test_the_files_are_those_that_the_script_writes() -> None:
    generated = kit()
    files = {path for folder in FOLDERS for path in (FOLDER / folder).iterdir()}
    assert {str(path.relative_to(FOLDER)) for path in files} == generated.keys()
    for name, content in generated.items():
        assert (FOLDER / name).read_bytes() == content, name
    assert sum(map(len, generated.values())) <= 400_000


def test_a_safetensors_library_reads_the_valid_files() -> None:
    for path in VALID:
        assert load_safetensors(path.read_bytes()) is not None


def test_one_file_is_that_of_the_specification() -> None:
    (path,) = (path for path in VALID if name_of(path) == "example-of-the-specification")
    assert path.read_bytes() == file_bytes()


def test_every_rule_of_the_specification_has_a_file() -> None:
    rules = re.findall(r"^\| ([A-Z]\d+) \| [\d.,to ]+ \| .* \|$", SPECIFICATION, re.MULTILINE)
    assert len(rules) == len(set(rules)) > 100
    assert {name_of(path).partition("-")[0] for path in (*INVALID, *PROGRAMS)} == set(rules)


# --- valid files ----------------------------------------------------------------------------------


def assert_values(stated: Any, found: dict[str, Array]) -> None:
    """Hold integers and outputs against the stated ones; the sign of zeros does not count."""
    for value in (*stated["integers"], *stated["outputs"]):
        array = found[value["name"]]
        assert list(array.shape) == value["shape"], value["name"]
        if "integers" in value:
            assert array.ravel().tolist() == value["integers"], value["name"]
        elif value["exact"]:
            np.testing.assert_array_equal(array.ravel(), floats(value["numbers"]))
        else:
            numbers = floats(value["numbers"])
            np.testing.assert_allclose(array.ravel(), numbers, rtol=1e-5, atol=1e-5)


def batch(stated: Any) -> NDArray[np.float32]:
    return floats(stated["input"]["numbers"]).reshape(stated["input"]["shape"])


@every_valid_file
def test_the_product_reads_valid_files(path: Path) -> None:
    stated, packed = expected(path), load_packed(path).check()
    assert [layer["name"] for layer in stated["layers"]] == sorted(packed.layers)
    for layer in stated["layers"]:
        found = packed.layers[layer["name"]]
        assert list(found.shape) == layer["shape"]
        assert found.weights().tobytes() == floats(layer["weights"]).tobytes()
        if isinstance(found, CodedLayer):
            assert found.codes.ravel().tolist() == layer["codes"]
            assert found.levels().ravel().tolist() == layer["levels"]
    images = batch(stated)
    values: dict[str, Array] = {stated["input"]["name"]: images}
    logits = oracle.run(packed.network, images, observe=values.__setitem__)
    assert_values(stated, values)
    assert logits.tobytes() == values[packed.network.output].tobytes()


@every_valid_file
def test_the_downstream_reader_reads_valid_files(path: Path) -> None:
    stated, network = expected(path), downstream.load(path)
    assert [layer["name"] for layer in stated["layers"]] == sorted(network.layers)
    for layer in stated["layers"]:
        found = network.layers[layer["name"]]
        assert list(found.factors.shape) == layer["shape"]
        assert network.weights(layer["name"]).tobytes() == floats(layer["weights"]).tobytes()
        if layer["kind"] == "coded":
            assert found.codes is not None
            assert found.codes.ravel().tolist() == layer["codes"]
            assert found.factors.ravel().tolist() == layer["levels"]
    images = batch(stated)
    assert_values(stated, {stated["input"]["name"]: images, **network.trace(images)})


def test_the_javascript_reader_reads_valid_files() -> None:
    for path, result in zip(VALID, results(VALID), strict=True):
        if name_of(path) == "version-1":
            assert "not apot-packed 1" in result["error"]  # it reads the newer ones
            continue
        assert "error" not in result, (path.name, result)
        layers = dict(result["found"])
        stated = expected(path)
        assert sorted(layers) == [layer["name"] for layer in stated["layers"]]
        for layer in stated["layers"]:
            found = layers[layer["name"]]
            assert (found["kind"], found["shape"]) == (layer["kind"], layer["shape"])
            assert base64.b64decode(found["weights"]) == floats(layer["weights"]).tobytes()
            if layer["kind"] == "coded":
                levels = np.frombuffer(base64.b64decode(found["levels"]), "<i4")
                assert levels.tolist() == layer["levels"]


# --- invalid files --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", INVALID, ids=name_of)
def test_both_readers_refuse_invalid_files(path: Path) -> None:
    for lazy in (False, True):
        with pytest.raises(PackedFileError) as caught:
            load_packed(path, lazy=lazy).check()
        assert str(caught.value.where).startswith(str(path))
    with pytest.raises(ValueError, match=r"\S"):
        downstream.load(path)


def test_the_javascript_reader_refuses_invalid_files() -> None:
    reached = set()
    for path, result in zip(INVALID, results(INVALID), strict=True):
        assert "error" in result, path.name
        module, line = re.findall(r"(\w+\.mjs):(\d+)", result["caller"])[0]
        reached.add((module, int(line)))
    for module in READER.parent.glob("*.mjs"):
        for number, text in enumerate(module.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(r"(?<!function )\bcheck\(", text) and "if you trust the file" not in text:
                assert (module.name, number) in reached, text


PACKAGE = Path(downstream.__file__).parents[1]
READING = [
    *(PACKAGE / "artifacts" / "packed").glob("*.py"),
    PACKAGE / "artifacts" / "strict_json.py",
    PACKAGE / "network" / "codebook.py",
    PACKAGE / "network" / "graph.py",
    *(PACKAGE / "downstream").glob("*.py"),
]
"""Modules whose refusals the invalid files reach."""
ELSEWHERE = {
    "is not stored": "the writer's",
    "IntegerError": "the writer's",
    "does not fit {bits} bits": "the encoder's",
    "do not fit {slots} slots": "the encoder's",
    "are defined for": "level sets are made in conversion alone",
    "Integers of this width": "likewise",
    "TypeError": "a mistake of the caller",
    "cannot be opened": "there is no file",
    "raise ValueError(found)": "sizes of streams are checked before, as the file is opened",
    "digits of base {base} in {content.shape}": "likewise",
    "too_deep) from error": "the interpreter's own limit is beyond that of the format",
    "{asked} {kind}": "a limit of section 5.1, as tests/support/hungry_files.py shows",
    "the images": "about the caller's images, not the file",
    "reads a NaN": "likewise",
    "leave int32": "the bound of section 4.2 is the writer's duty, which a reader may check",
}
"""Parts of refusals that no file of the kit reaches, and why."""


def refusals(module: Path) -> dict[int, str]:
    """Return the lines on which a module refuses a file, each with what it says."""
    found = {}
    for function in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                call = node.value if isinstance(node, ast.Expr) else None
                required = isinstance(call, ast.Call) and ast.unparse(call.func) == "require"
                if required or (isinstance(node, ast.Raise) and node.exc is not None):
                    assert isinstance(node, ast.stmt)
                    found[node.lineno] = ast.unparse(node)
    return found


def lines_of(error: BaseException | None) -> set[tuple[str, int]]:
    """Return the lines that an error and its causes went through."""
    found: set[tuple[str, int]] = set()
    while error is not None:
        trace: TracebackType | None = error.__traceback__
        while trace is not None:
            found.add((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    return found


def test_every_refusal_of_a_reader_is_reached_by_a_file() -> None:
    reached: set[tuple[str, int]] = set()
    for path in INVALID:
        try:
            load_packed(path).check()
        except PackedFileError as error:
            reached |= lines_of(error)
        try:
            downstream.load(path)
        except ValueError as error:
            reached |= lines_of(error)
    missing = {
        refusal: f"{module.relative_to(PACKAGE)}:{line}"
        for module in READING
        for line, refusal in refusals(module).items()
        if (str(module), line) not in reached
    }
    for refusal, place in missing.items():
        assert any(part in refusal for part in ELSEWHERE), (place, refusal)
    for part in ELSEWHERE:
        assert any(part in refusal for refusal in missing), f"a file reaches it: {part}"


# --- integer programs -----------------------------------------------------------------------------


def test_the_interpreter_runs_the_sound_program_and_refuses_the_others() -> None:
    sound = FOLDER / "programs" / f"sound{SUFFIX}"
    stated = json.loads((FOLDER / "programs" / "sound.json").read_text(encoding="utf-8"))
    image = np.array(stated["image"]["integers"]).reshape(1, *stated["image"]["shape"])
    assert OpenProgram(sound.read_bytes()).run(image).tolist() == [stated["logits"]]
    for path in PROGRAMS:
        with pytest.raises(PackedFileError, match="program"):
            OpenProgram(path.read_bytes())


def test_readers_that_run_no_program_need_not_look_into_it() -> None:
    for path in (FOLDER / "programs").glob(f"*{SUFFIX}"):
        assert load_packed(path).check().integer
        assert downstream.load(path).layers
