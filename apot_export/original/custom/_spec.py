"""How to build a custom network: a factory, its arguments, and the shape of an image."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apot_export.errors import ModelError

ImageShape = tuple[int, int, int]
"""(channels, height, width)"""
_AXES = 3


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A factory that returns a network, as `package.module:factory`, and its keyword arguments."""

    factory: str
    input_shape: ImageShape
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Python literals: what a manifest can hold."""

    def __post_init__(self) -> None:
        for name, value in self.arguments.items():
            if not _is_literal(value):
                raise ModelError(
                    "An argument of the network's factory is not a Python literal.",
                    where=name,
                    expected="a number, string, None, or a list, tuple or dict of these",
                    got=repr(value),
                    fix="build the network yourself and give it to apot_export.convert",
                )

    def to_json(self) -> dict[str, Any]:
        """Return the form that manifests store."""
        return {
            "factory": self.factory,
            "arguments": {name: repr(value) for name, value in self.arguments.items()},
            "input_shape": list(self.input_shape),
        }

    @staticmethod
    def of_json(content: Mapping[str, Any]) -> ModelSpec:
        """Read what `to_json` returned.

        Raises:
            KeyError, TypeError, ValueError, SyntaxError, ModelError: It is something else.
        """
        return ModelSpec(
            factory=str(content["factory"]),
            arguments={k: ast.literal_eval(v) for k, v in content["arguments"].items()},
            input_shape=input_shape_of(content["input_shape"]),
        )


def input_shape_of(said: str | Sequence[int] | None) -> ImageShape:
    """Return an input shape given as "C,H,W" or as three numbers.

    Raises:
        ModelError: It is missing, or no shape of an image.

    >>> input_shape_of("3,32,32")
    (3, 32, 32)
    """
    if said is None:
        raise ModelError(
            "The size of the network's images is not known: its weights do not say it.",
            expected="channels, height and width",
            fix="say it: --input-shape 3,32,32 (in Python: input_shape=(3, 32, 32))",
        )
    parts = said.split(",") if isinstance(said, str) else list(said)
    try:
        shape = tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        shape = ()
    if len(shape) != _AXES or min(shape) < 1:
        raise ModelError(
            "The input shape is not that of an image.",
            expected="channels, height and width, e.g. --input-shape 3,32,32",
            got=str(said),
        )
    return (shape[0], shape[1], shape[2])


def _is_literal(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
