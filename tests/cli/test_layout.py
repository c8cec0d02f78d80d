"""What a terminal of 80 columns shows of tables, and how a failure is laid out."""

from __future__ import annotations

import dataclasses
import io
from importlib import import_module

import pytest
from rich.console import Console

from tests.support import sample_reports


def test_a_wide_table_cuts_no_number_at_80_columns() -> None:
    numbers = ["20,561", "113,216", "1,316,864", "238,080", "1,095,168", "10,538,576"]
    table = import_module("apot_export_cli._render").new_table(
        "step", "flash", "RAM", "adds", "shifts", "loads", "instructions", wide=True
    )
    table.add_row("layer2.0.downsample.0.levels", *numbers)
    shown = io.StringIO()
    Console(file=shown, width=80).print(table)
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert all(number in lines[3].split() for number in numbers)
    assert "".join(line.split()[0] for line in lines[3:] if line.strip()) == (
        "layer2.0.downsample.0.levels"
    )


def test_places_of_a_failure_stand_on_lines_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failures = ("2 layers have other weights: conv1: 3 differ; fc: 4 differ", "one: a")
    report = sample_reports.passing()
    more = {"original": None, "unsigned_zeros": False, "onnxruntime": "1.31"}
    settings = {**report.settings, **more}
    report = dataclasses.replace(report, failures=failures, settings=settings)
    import_module("apot_export_cli._render_verify").print_report(report)
    lines = capsys.readouterr().out.splitlines()
    first = lines.index("  2 layers have other weights:")
    assert lines[first + 1 : first + 4] == ["    conv1: 3 differ", "    fc: 4 differ", "  one: a"]
