"""Options: their values, near misses, and their page."""

from __future__ import annotations

import inspect
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, get_args

import pytest
import typer

from apot_export import datasets
from apot_export.artifacts.onnx_model.lowering import TARGETS
from apot_export.original.quantization import METHODS
from tests.support import cli_reference
from tests.support.commands import EXPORT, run

ROOT = Path(__file__).parents[2]


def values_of(verb: str, name: str) -> tuple[str, ...]:
    parameter = inspect.signature(cli_reference.command(verb)).parameters[name]
    return cli_reference.choices(get_args(parameter.annotation)[0])


def test_values_are_those_of_the_library() -> None:
    assert values_of("convert", "target") == TARGETS
    assert values_of("verify", "dataset") == datasets.NAMES
    assert set(values_of("inspect identify", "dataset")) <= set(datasets.NAMES)
    assert values_of("convert", "method") == METHODS


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("verify --dataset cifar", "cifar10"),
        ("convert x.pth.tar --target openvin", "openvino"),
        ("convert x.pth.tar --method APT", "apot"),
        ("tune --runtime onnxrt", "onnxruntime"),
        ("inspect identify x.pth.tar --dataset mnst", "mnist"),
    ],
)
def test_a_value_that_does_not_exist_is_answered_with_the_nearest(line: str, near: str) -> None:
    result = run(*line.split())
    assert result.exit_code == 2
    assert f"did you mean {near}?" in result.stderr


def test_a_wrong_value_is_answered_before_anything_large_is_imported() -> None:
    script = (
        "import sys; sys.argv = ['apot-export', 'verify', '--dataset', 'cifar']\n"
        "from apot_export_cli.main import run\n"
        "try: run()\n"
        "except SystemExit as end: assert end.code == 2\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_hints_that_python_3_10_makes_optional_keep_their_option() -> None:
    groups = import_module("apot_export_cli._groups")
    argument = typer.Argument(help="The export.")
    hint = groups._annotation("export", Annotated[Path | None, argument] | None)
    assert get_args(hint)[0] == (Path | None)
    assert get_args(hint)[1].help == "The export."


@pytest.mark.parametrize("group", [[], ["emit"], ["inspect"]], ids=str)
def test_lists_of_commands_are_not_cut(group: list[str]) -> None:
    shown = run(*group, "--help").stdout
    assert "..." not in shown.partition("Commands:")[2]


@pytest.mark.usefixtures("folder")
def test_the_next_command_can_be_copied() -> None:
    shown = run("emit", "native", EXPORT, "-o", "two words").stdout
    command = shlex.split(shown.splitlines()[-1].removeprefix("Next: "))
    assert command == ["make", "-C", "two words", "run"]


def test_values_may_be_written_in_capitals(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pth.tar"
    result = run("convert", missing, "--method", "POT", "--target", "Portable")
    assert "no such value" not in result.stderr
    assert str(missing) in result.stderr


def test_the_page_is_what_the_command_line_declares() -> None:
    assert cli_reference.PAGE.read_text(encoding="utf-8") == cli_reference.reference(), (
        "run: python -m tests.support.cli_reference"
    )
