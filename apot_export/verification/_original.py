"""The original that an export is held to: what its manifest records, or what the user states."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import nn

from apot_export._version import VERSION
from apot_export.errors import ExportError
from apot_export.network import CodedNetwork
from apot_export.original.choices import Choices
from apot_export.original.custom import ModelSpec
from apot_export.original.opening import Source, model_spec, open_original
from apot_export.original.original import Original
from apot_export.original.recorded import (
    recorded_choices,
    require_recorded,
)
from apot_export.runtimes import onnx_runtime
from apot_export.verification._request import RIGHT_FILE, Request, Statement

_SHOWN_LAYERS = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldTo:
    """The original that an export is held to."""

    original: Original
    stated: bool
    """Whether the user stated how it was trained; otherwise the manifest did."""
    choices: Choices
    spec: ModelSpec | None

    def to_json(self) -> dict[str, Any]:
        """Return which original this is, as reports keep it."""
        checkpoint = self.original.checkpoint
        return {
            "stated": self.stated,
            "checkpoint": None if checkpoint is None else checkpoint.path.name,
            "checkpoint_sha256": None if checkpoint is None else checkpoint.sha256,
            "state_sha256": self.original.state_sha256,
            "model": None if self.spec is None else self.spec.to_json(),
            "choices": self.original.choices.non_default(),
        }


def settings_of(held_to: HeldTo | None, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a network was trained: what its original says, else what the manifest does."""
    if held_to is None:
        names = ("bits", "method", "family", "architecture")
        choices = {name: manifest["choices"][name] for name in ("alpha_terms", "unsigned_zeros")}
        return {"original": None, **{name: manifest[name] for name in names}, **choices}
    original = held_to.original
    return {
        "original": held_to.to_json(),
        "bits": original.quantization.weight_bits,
        "method": original.quantization.method,
        "family": original.family.name,
        "architecture": original.architecture.name,
        "alpha_terms": original.choices.alpha_terms,
        "unsigned_zeros": held_to.choices.unsigned_zeros,
    }


def find_original(request: Request, statement: Statement, source: Source) -> HeldTo:
    """Build the original that an export is to be held to.

    Args:
        request: What is verified.
        statement: What the user states of the original: see `Statement.says_how`.
        source: See `Statement.source`.

    Raises:
        ExportError: The original is not the recorded one.
        ApotExportError: It cannot be built.
    """
    directory, manifest = request.directory, request.manifest
    recorded, spec, shape = recorded_choices(directory, manifest)
    stated = statement.says_how(manifest)
    if statement.network is None and statement.model is None and spec is not None:
        raise ExportError(
            "The export is of a custom network: verifying it means running its code.",
            where=str(directory),
            expected="the factory that it was converted with",
            fix=f"allow this: --model {spec.factory}",
        )
    if stated:
        arguments = statement.model_arguments or (
            spec.arguments if spec and statement.model else {}
        )
        image = statement.input_shape or (shape if statement.model else None)
        spec = model_spec(source, statement.model, arguments, image)
        choices = statement.choices or Choices()
    else:
        choices = recorded
        if spec is not None and statement.model is not None:
            spec = dataclasses.replace(spec, factory=statement.model)
    # Another file may be of another network, which takes the images of its own architecture.
    is_other = stated and statement.checkpoint is not None and statement.network is None
    shown = statement.input_shape or (None if is_other else shape)
    original = open_original(source, choices, spec, shown)
    if statement.must_be_recorded(manifest):
        require_recorded(original, manifest, source, fix=RIGHT_FILE)
    _require_same_images(original, request.packed)
    if stated:
        _require_same_layers(original, request.packed)
    return HeldTo(original=original, stated=stated, choices=choices, spec=spec)


def _require_same_images(original: Original, packed: CodedNetwork) -> None:
    """Raise `ExportError` unless an original takes the images of an export."""
    if original.architecture.input_shape != packed.input_shape:
        raise ExportError(
            "The original takes other images than the export.",
            where=original.architecture.name,
            expected=f"images {list(packed.input_shape)}",
            got=f"images {list(original.architecture.input_shape)}",
            fix="name the checkpoint that the export was made from, or the size: --input-shape "
            + ",".join(map(str, packed.input_shape)),
        )


def _require_same_layers(original: Original, packed: CodedNetwork) -> None:
    """Raise `ExportError` unless a stated original has the layers of an export."""
    expected = {name: tuple(layer.shape) for name, layer in packed.layers.items()}
    got = {
        name: tuple(layer.weight.shape)
        for name, layer in original.module.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    }
    if got != expected:
        raise ExportError(
            "The stated original is another network than the export.",
            where=original.architecture.name,
            expected=_differing_layers(expected, got),
            got=_differing_layers(got, expected),
            fix="name the checkpoint, or state the network, that the export was made from",
        )


def _differing_layers(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    names = [name for name, shape in one.items() if other.get(name) != shape]
    shown = [f"{name} {list(one[name])}" for name in names[:_SHOWN_LAYERS]]
    more = f" and {len(names) - _SHOWN_LAYERS} more" if len(names) > _SHOWN_LAYERS else ""
    return f"layers {', '.join(shown)}{more}" if shown else "no other layers"


def versions() -> dict[str, str]:
    """Return the versions on which counts and numbers depend."""
    return {
        "apot_export": VERSION,
        "torch": torch.__version__,
        "torchvision": metadata.version("torchvision"),
        "onnxruntime": onnx_runtime.version(),
        "python": platform.python_version(),
    }
