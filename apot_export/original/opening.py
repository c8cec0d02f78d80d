"""Open an original: a published network, or a custom one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from apot_export.errors import ModelError
from apot_export.original.custom import ModelSpec, input_shape_of

if TYPE_CHECKING:
    pass


def _spec(
    checkpoint: object,
    model: str | None,
    model_arguments: Mapping[str, Any] | None,
    input_shape: Sequence[int] | str | None,
) -> ModelSpec | None:
    """Return how to build a network of the user's own; None where it is not to be built.

    Raises:
        ModelError: What is given does not go together.
    """
    is_module = isinstance(checkpoint, nn.Module)
    if model is None and not model_arguments and (is_module or input_shape is None):
        return None
    if model is None or is_module:
        raise ModelError(
            "A factory, its arguments and an input shape go together.",
            expected="the input shape alone beside a module"
            if is_module
            else "--model PACKAGE.MODULE:FACTORY beside --model-kwarg and --input-shape",
            got=", ".join(
                name
                for name, value in (
                    ("a factory", model),
                    ("arguments of a factory", model_arguments),
                    ("an input shape", input_shape),
                )
                if value
            ),
        )
    shape = input_shape_of(input_shape)
    return ModelSpec(factory=model, arguments=dict(model_arguments or {}), input_shape=shape)
