"""Running the command line in tests."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from apot_export.artifacts.directory import (
    MANIFEST,
    ONNX_MODEL,
    PACKED_MODEL,
    PICTURE,
    README,
    SAMPLE,
)

APP: Typer = import_module("apot_export_cli.app").app  # of the folder cli/
PROGRESS: Any = import_module("apot_export_cli._progress")
BETWEEN_LINES: float = PROGRESS._BETWEEN_LINES
PROGRESS._BETWEEN_LINES = 3600.0  # what a slow machine says in between is in no test's way
COMMAND = Path(sys.executable).with_name("apot-export")
CHECKPOINT = "res8_4bit.pth.tar"
EXPORT = Path("res8_4bit")
FILES = {ONNX_MODEL, PACKED_MODEL, SAMPLE, PICTURE, README, MANIFEST}


def run(*arguments: object, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(APP, [str(argument) for argument in arguments])


def installed(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, **environment},
        check=False,
    )


def document(*arguments: object) -> Any:
    """Run a verb with --json; return the one document on standard output, nothing elsewhere."""
    result = run(*arguments, "--json")
    assert result.exit_code in {0, 1}, result.output
    assert result.stderr == ""
    return json.loads(result.stdout)


def typed(content: Any, types: dict[str, Any]) -> None:
    """Check that a JSON object has these fields with these types (bool is no number)."""
    for key, wanted in types.items():
        if isinstance(wanted, dict):
            typed(content[key], wanted)
        else:
            assert type(content[key]) in (wanted if isinstance(wanted, tuple) else (wanted,)), key


def replace_file(export: Path, name: str, data: bytes) -> None:
    """Put another file into an export, with its digest."""
    (export / name).write_bytes(data)
    manifest = json.loads((export / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (export / MANIFEST).write_text(json.dumps(manifest))


here = pytest.mark.usefixtures("folder")
"""In a folder with a checkpoint and its export."""
