"""A custom network's factory: how to name it, import it, and build the network."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from apot_export.errors import ModelError

ImageShape = tuple[int, int, int]
"""(channels, height, width)"""
_AXES = 3
_OWN_CODE = Path(__file__).parent


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


def build(spec: ModelSpec, folders: Sequence[Path]) -> nn.Module:
    """Import a factory and call it.

    Args:
        spec: The factory and its arguments.
        folders: Folders that modules may be imported from, beside the installed ones.

    Raises:
        ModelError: There is no such module or factory, or it raises, or returns no module.
    """
    with _importable(folders):
        factory = _import(spec, folders)
        _check_arguments(spec, factory)
        try:
            module = factory(**spec.arguments)
        except (Exception, SystemExit) as error:
            raise _raised("The network's factory raised an error.", spec.factory, error) from error
    if not isinstance(module, nn.Module):
        raise ModelError(
            "The network's factory returned no torch.nn.Module.",
            where=spec.factory,
            got=type(module).__name__,
            fix="name a function or class that returns the network itself",
        )
    return module


@contextmanager
def _importable(folders: Sequence[Path]) -> Iterator[None]:
    before = list(sys.path)
    sys.path[:0] = [str(folder.absolute()) for folder in folders]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def _import(spec: ModelSpec, folders: Sequence[Path]) -> Any:
    module_name, _, path = spec.factory.partition(":")
    if not (module_name and path) or module_name.startswith("."):
        raise ModelError(
            "The network's factory cannot be read.",
            expected="PACKAGE.MODULE:FACTORY, e.g. --model models.resnet:resnet20",
            got=spec.factory,
        )
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or not f"{module_name}.".startswith(f"{missing}."):
            raise _raised("The network's module cannot be imported.", module_name, error) from error
        raise ModelError(
            "There is no such module.",
            where=module_name,
            expected="a module that is installed or lies in "
            + " or ".join(str(folder.absolute()) for folder in folders),
            got=str(error),
            fix="run from the folder that holds it, or set PYTHONPATH",
        ) from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise ModelError(
                "The module has no such factory.",
                where=spec.factory,
                expected="a function or class that returns the network",
                got=f"no attribute {name} in {found.__name__}",
            )
        found = getattr(found, name)
    if not callable(found):
        raise ModelError(
            "The network's factory cannot be called.",
            where=spec.factory,
            expected="a function or class that returns the network",
            got=type(found).__name__,
        )
    return found


def _check_arguments(spec: ModelSpec, factory: Any) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return  # a factory of C code: calling it will tell
    try:
        signature.bind(**spec.arguments)
    except TypeError as error:
        raise ModelError(
            "The network's factory does not take these arguments.",
            where=spec.factory,
            expected=f"{spec.factory}{signature}",
            got=str(error),
            fix="say its arguments: --model-kwarg NAME=VALUE",
        ) from error


def _raised(what: str, where: str, error: BaseException) -> ModelError:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not (frame.filename.startswith("<") or Path(frame.filename).is_relative_to(_OWN_CODE))
    ]
    line = f", {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""
    return ModelError(
        what,
        where=f"{where}{line}",
        got=f"{type(error).__name__}: {error}",
        fix="make the module importable and the factory work by themselves: no training, no "
        "command-line arguments",
    )
