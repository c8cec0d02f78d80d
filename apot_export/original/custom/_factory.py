"""Import, build and run the user's network."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from apot_export.errors import ApotExportError, ModelError
from apot_export.original.custom._spec import ModelSpec

_OWN_CODE = Path(__file__).parent


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
    module_name, colon, path = spec.factory.partition(":")
    if not (colon and module_name and path) or module_name.startswith("."):
        raise ModelError(
            "The network's factory cannot be read.",
            expected="PACKAGE.MODULE:FACTORY, e.g. --model models.resnet:resnet20",
            got=spec.factory,
        )
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _raised("The network's module cannot be imported.", module_name, error) from error
        raise ModelError(
            "There is no such module.",
            where=module_name,
            expected="a module that is installed or lies in "
            + " or ".join(str(folder.absolute()) for folder in folders),
            got=str(error),
            fix="run from the folder that holds it, or set PYTHONPATH",
        ) from error
    except (Exception, SystemExit) as error:
        raise _raised("The network's module cannot be imported.", module_name, error) from error
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


def run(module: nn.Module, images: torch.Tensor) -> Any:
    """Run the user's network on float32 [N, channels, height, width].

    Raises:
        ModelError: It does not run on these images.
    """
    try:
        return module(images)
    except ApotExportError:
        raise
    except Exception as error:
        raise ModelError(
            "The network does not run on an image of this shape.",
            where=type(module).__name__,
            expected=f"an image {list(images.shape[1:])} as its only input",
            got=f"{type(error).__name__}: {error}".splitlines()[0],
            fix="say the shape that it was trained with: --input-shape C,H,W",
        ) from error
