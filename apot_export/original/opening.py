"""Open an original: a published network from its checkpoint, a custom one, or a module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from apot_export.errors import ModelError
from apot_export.original.choices import Choices
from apot_export.original.custom import ModelSpec, input_shape_of, load_custom, original_of_module
from apot_export.original.original import Original
from apot_export.original.published import load_original

Source = str | PathLike[str] | nn.Module
"""A checkpoint file, or a network in memory."""


def model_spec(
    source: Source,
    model: str | None,
    model_arguments: Mapping[str, Any] | None,
    input_shape: Sequence[int] | str | None,
) -> ModelSpec | None:
    """Return how to build a custom network; None for a module or a published architecture.

    Raises:
        ModelError: A factory, its arguments and an input shape are not given together.
    """
    is_module = isinstance(source, nn.Module)
    if model is None and not model_arguments and (is_module or input_shape is None):
        return None
    if model is None or is_module:
        given = {
            "a factory": model,
            "arguments of a factory": model_arguments,
            "an input shape": input_shape,
        }
        raise ModelError(
            "A factory, its arguments and an input shape go together.",
            expected="the input shape alone beside a module"
            if is_module
            else "--model PACKAGE.MODULE:FACTORY beside --model-kwarg and --input-shape",
            got=", ".join(name for name, value in given.items() if value),
        )
    shape = input_shape_of(input_shape)
    return ModelSpec(factory=model, arguments=dict(model_arguments or {}), input_shape=shape)


def open_original(
    source: Source,
    choices: Choices,
    spec: ModelSpec | None = None,
    input_shape: Sequence[int] | str | None = None,
) -> Original:
    """Rebuild the trained network.

    Args:
        source: The checkpoint, or the network itself.
        choices: How it was trained, as far as its name and layers do not tell.
        spec: How to build a custom network, whose code this imports and runs; None for a module or
            a published architecture.
        input_shape: One image, (channels, height, width); read for a module alone.

    Raises:
        ApotExportError: The network cannot be loaded, built or recognised.
    """
    if isinstance(source, nn.Module):
        return original_of_module(source, input_shape_of(input_shape), choices)
    if spec is not None:
        return load_custom(Path(source), choices, spec)
    return load_original(Path(source), choices)
