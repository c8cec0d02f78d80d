"""The integer network of an export, made again as its manifest records it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apot_export.artifacts.directory import INTEGER_MODEL
from apot_export.errors import ExportError
from apot_export.integer import IntegerNetwork, Pixels, lower
from apot_export.network import CodedNetwork


def integer_of_manifest(manifest: Mapping[str, Any], coded: CodedNetwork) -> IntegerNetwork:
    """Lower a coded network as its manifest says.

    Raises:
        ExportError: The export has no integer network, or its manifest is damaged.
    """
    form = manifest.get("integer")
    if form is None:
        raise ExportError(
            "The export has no integer network.",
            expected=INTEGER_MODEL,
            fix="convert the checkpoint with --integer",
        )
    try:
        pixels = form["normalisation"]
        return lower(
            coded,
            fraction_bits=form["fraction_bits"],
            input_bits=form["input_bits"],
            pixels=None
            if pixels is None
            else Pixels(mean=tuple(pixels["mean"]), std=tuple(pixels["std"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(
            "The manifest is damaged.", got=str(error), fix="convert again"
        ) from error
