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
        ModelError: Arguments are given without a factory, or a module beside one.
    """
    is_module = isinstance(source, nn.Module)
    if model is None and not model_arguments:
        return None
    if model is None or is_module:
        given = {
            "a factory": model,
            "arguments of a factory": model_arguments,
            "an input shape": input_shape,
        }
        raise ModelError(
            "A factory and its arguments go together.",
            expected="the input shape alone beside a module"
            if is_module
            else "--model PACKAGE.MODULE:FACTORY beside --model-kwarg",
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
        input_shape: One image, (channels, height, width); None for that of a published
            architecture. That of a custom network is in `spec`.

    Raises:
        ApotExportError: The network cannot be loaded, built or recognised.
    """
    if isinstance(source, nn.Module):
        return original_of_module(source, input_shape_of(input_shape), choices)
    if spec is not None:
        return load_custom(Path(source), choices, spec)
    shape = None if input_shape is None else input_shape_of(input_shape)
    return load_original(Path(source), choices, shape)
