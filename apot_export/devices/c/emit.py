"""Write the C99 project of an export's integer network."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.devices.c._constants import literal, wrapped
from apot_export.devices.c._program import program_of
from apot_export.devices.c._report import report_of, require_fitting, totals
from apot_export.devices.c._source import Source
from apot_export.devices.export import OpenExport, open_export
from apot_export.devices.vectors import chosen_images
from apot_export.devices.writing import require_free, write_project
from apot_export.integer import run_integer
from apot_export.integer.oracle import fixed_point

SOURCES = Path(__file__).parent / "sources"


def emit_c(
    export: str | PathLike[str],
    directory: str | PathLike[str],
    *,
    images: int = 2,
    data: Path | None = None,
    flash: int | None = None,
    ram: int | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write a C project that runs an export's integer network by additions and shifts.

    Args:
        export: The export directory; without an integer network it gets one as `convert` makes it.
        directory: The directory to write.
        images: How many samples the project runs and compares.
        data: A .npy file of images as the network reads them; None: noise, always the same.
        flash: Bytes of the device for code and constants; None: any.
        ram: Bytes of the device for workspace and stack; None: any.
        force: Replace an earlier project in the directory.

    Returns:
        The path, the bytes of every file, and what the network takes, in all and by step, as JSON.

    Raises:
        ApotExportError: With what is wrong; nothing is left half-written.
    """
    folder = Path(directory)
    require_free(folder, force=force)
    opened = open_export(export)
    files, report = project(
        opened, chosen_images(opened.network, images, data, opened.path), flash=flash, ram=ram
    )
    return write_project(folder, files, {"emitted": "c", **report}, force=force)


def memory_of(export: str | PathLike[str]) -> dict[str, Any]:
    """Return what the C project of an export takes, as `emit_c` does, and write nothing.

    Raises:
        IntegerError: A layer has no kernel in C.
    """
    source, _ = _written(open_export(export))
    return totals(source.program, report_of(source.program, source.constants.bytes))


def _written(opened: OpenExport) -> tuple[Source, str]:
    """Return the source of an export's program, and model.c."""
    source = Source(program=program_of(opened.network, opened.coded))
    return source, source.model_c()


def project(
    opened: OpenExport,
    images: NDArray[Any],
    *,
    flash: int | None = None,
    ram: int | None = None,
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files of a project by name, and what its network takes.

    Args:
        opened: The export.
        images: Samples, as the integer network reads them.
        flash: Bytes of the device for code and constants; None: any.
        ram: Bytes of the device for workspace and stack; None: any.

    Raises:
        IntegerError: A layer has no kernel in C, or the device has too little memory.
    """
    source, model_c = _written(opened)
    program = source.program
    reports = report_of(program, source.constants.bytes)
    require_fitting(program, reports, flash, ram)
    made = {
        "model.c": model_c,
        "model.h": source.model_h(re.sub(r"[^\w.-]", "_", opened.name)),
        "samples.h": _samples(opened, images),
    }
    files = {path.name: path.read_bytes() for path in sorted(SOURCES.iterdir()) if path.is_file()}
    files |= {name: text.encode() for name, text in made.items()}
    return files, totals(program, reports)


def _samples(opened: OpenExport, images: NDArray[Any]) -> str:
    network = opened.network
    logits = run_integer(network, images)
    numbers = fixed_point(network, images)
    guard = "APOT_SAMPLES_H"
    return "\n".join(
        [
            f"#ifndef {guard}",
            f"#define {guard}",
            "",
            '#include "model.h"',
            "",
            f"#define APOT_SAMPLES {len(images)}",
            "",
            "static const apot_pixel apot_samples[APOT_SAMPLES][APOT_IMAGE_NUMBERS] = {",
            *_rows(numbers),
            "};",
            "",
            "static const int32_t apot_expected[APOT_SAMPLES][APOT_CLASSES] = {",
            *_rows(logits),
            "};",
            "",
            "#endif",
            "",
        ]
    )


def _rows(numbers: NDArray[np.int64]) -> list[str]:
    lines = []
    for row in numbers.reshape(len(numbers), -1):
        lines += ["    {", *wrapped([literal(int(number)) for number in row]), "    },"]
    return lines
