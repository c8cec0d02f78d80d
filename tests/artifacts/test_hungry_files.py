"""Small files that ask for much are refused by every reader before it takes memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from apot_export import budgets
from apot_export.artifacts.packed import load_packed
from apot_export.downstream import _budget, _members, load
from apot_export.errors import PackedFileError
from tests.support.commands import run
from tests.support.hungry_files import HUNGRY, LARGE, READERS, Json, doubled
from tests.support.javascript import results

ROOT = Path(__file__).parents[2]
CHECKS = ROOT / "examples" / "javascript" / "check_packed.mjs"
MOST_MEGABYTES = 200


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Json]:
    folder = tmp_path_factory.mktemp("hungry")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.hungry_files", str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {(record["name"], record["reader"]): record for record in found}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", HUNGRY)
def test_what_asks_for_too_much_is_refused(
    records: dict[tuple[str, str], Json], name: str, reader: str
) -> None:
    record = records[name, reader]
    assert record["error"]
    assert record["megabytes"] < MOST_MEGABYTES


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", LARGE)
def test_what_asks_for_much_and_may_is_computed(
    records: dict[tuple[str, str], Json], name: str, reader: str
) -> None:
    record = records[name, reader]
    assert record["error"] is None
    assert record["megabytes"] < MOST_MEGABYTES


def test_the_javascript_reader_refuses_what_it_would_read(tmp_path: Path) -> None:
    """It runs no networks, and so has no limit on their values."""
    asked = ("sign planes", "entropy-coded", "provenance", "twenty", "a shape of")
    files = [tmp_path / str(index) for index, name in enumerate(HUNGRY) if name.startswith(asked)]
    for file in files:
        file.write_bytes([*HUNGRY.values()][int(file.name)]())
    for file, result in zip(files, results(files), strict=True):
        assert re.search("more than|nested too deeply|must be extents", result["error"]), file


def test_whoever_trusts_a_file_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "model.apot.safetensors"
    path.write_bytes(doubled(20))
    with pytest.raises(PackedFileError) as caught:
        load_packed(path)
    assert str(caught.value.where) == f"{path}: node19"
    with pytest.raises(ValueError, match="max_memory="):
        load(path)
    needed = int(str(caught.value.fix).partition("--max-memory ")[2].split()[0])
    load_packed(path, max_memory=needed)
    load(path, max_memory=needed)
    with pytest.raises(PackedFileError, match="at most 8388608 numbers"):
        load_packed(path, max_memory=1 << 26)


def test_the_command_line_raises_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "model.apot.safetensors"
    path.write_bytes(doubled(20))
    refusal = "more memory than a file of its size should need"
    assert refusal in run("inspect", "bits", path).stderr
    assert refusal not in run("inspect", "bits", path, "--max-memory", "1G").stderr
    assert refusal in run("inspect", "bits", path, "--max-memory", "0.1g").stderr
    assert (
        "'much' is not a number of bytes" in run("inspect", "bits", "--max-memory", "much").stderr
    )


def test_all_readers_state_the_same_limits() -> None:
    own = (budgets.FIXED_MEMORY, budgets.MEMORY_OF_A_BYTE, budgets.MOST_MEMORY)
    assert own == (_budget.FIXED_MEMORY, _budget.MEMORY_OF_A_BYTE, _budget.MOST_MEMORY)
    others = (budgets.BYTES, budgets.PICKLE_STEPS)  # of other files
    kinds = [kind for kind in vars(budgets).values() if isinstance(kind, budgets.Kind)]
    stated = {kind.name: (kind.memory, kind.grows) for kind in kinds if kind not in others}
    assert stated == _budget.KINDS
    assert budgets.DEEPEST_JSON == _members.DEEPEST_JSON
    text = CHECKS.read_text(encoding="utf-8")
    powers = re.search(r"FIXED_MEMORY = (.*), MEMORY_OF_A_BYTE = (.*), MOST_MEMORY = (.*);", text)
    assert powers is not None
    assert tuple(2 ** int(power.removeprefix("2 ** ")) for power in powers.groups()) == own
    asked = re.findall(r'^  "(.*)": \[(\d+), (true|false)\],$', text, re.MULTILINE)
    found = {name: (int(memory), grows == "true") for name, memory, grows in asked}
    assert found == {name: limit for name, limit in stated.items() if name != _budget.NUMBERS}
