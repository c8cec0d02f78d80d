"""`apot_export.inspect`: open whatever a path names, and look inside."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apot_export.arguments import checked
from apot_export.artifacts.directory import MANIFEST, PACKED_MODEL, read_manifest
from apot_export.artifacts.packed import PackedNetwork, load_packed
from apot_export.errors import (
    AmbiguousFamilyError,
    ApotExportError,
    ExportError,
    MissingPackageError,
    absence,
)
from apot_export.inspection.cost import Cost, cost
from apot_export.inspection.levels import Levels, levels
from apot_export.inspection.overview import Overview, of_interface, of_manifest, of_network
from apot_export.inspection.thresholds import Thresholds, packed_file, thresholds, thresholds_of
from apot_export.inspection.weights import WeightErrors, weight_errors
from apot_export.inspection.widths import Widths, widths
from apot_export.network import CodedNetwork
from apot_export.network.shown import Shown
from apot_export.original.choices import Choices, Stated
from apot_export.original.files import recorded_file

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from apot_export.network import SourceNetwork
    from apot_export.original.original import Original

_ONNX = ".onnx"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What a user states about a checkpoint, as `convert` takes it."""

    choices: Choices
    model: str | None = None
    model_arguments: Mapping[str, Any] | None = None
    input_shape: Sequence[int] | str | None = None
    checkpoint: Path | None = None
    """Of an export, where it is no longer where it was."""


@dataclass(frozen=True, eq=False, repr=False)
class Inspection(Shown):
    """What lies at a path: views of it, each computed when it is first asked for."""

    path: Path
    statement: Statement

    @cached_property
    def kind(self) -> str:
        """What it is: "export", "packed file", "ONNX model" or "checkpoint".

        Raises:
            ExportError: There is nothing, or a folder that is no export.
        """
        if (missing := absence(self.path)) is not None:
            raise ExportError(
                "There is no such file or folder.",
                where=str(self.path),
                expected="a checkpoint, an export's folder, a packed file or an ONNX model",
                got=missing,
                fix="check the path; apot-export inspect --help lists the views",
            )
        if packed_file(self.path) is not None:
            return "export" if self.path.is_dir() else "packed file"
        return "ONNX model" if self.path.suffix == _ONNX else "checkpoint"

    @cached_property
    def overview(self) -> Overview:
        """What it is, from what, of which parts, and what it costs."""
        kind, packed = self.kind, self._packed
        if packed is None and kind == "ONNX model":
            return Overview(path=self.path, kind=kind, bytes=self._bytes, **self._of_model())
        fields = of_network(self.network)
        if packed is None:
            fields |= self._of_checkpoint()
        else:
            said = {name: packed.provenance.get(name) for name in ("architecture", "family")}
            digest = {"checkpoint": None, "sha256": packed.provenance.get("checkpoint_sha256")}
            tool = {"tool": packed.provenance.get("tool")}
            fields |= {**said, "made_from": {**digest, **tool}, **of_interface(packed.interface)}
            fields |= of_manifest(self._manifest) if self._manifest else {}
            fields |= self._of_model() if kind == "ONNX model" else {}
        return Overview(path=self.path, kind=kind, cost=self.cost, bytes=self._bytes, **fields)

    @cached_property
    def readings(self) -> tuple[Inspection, ...]:
        """What it may be: this alone, or one for each family where nothing tells which it is."""
        try:
            _ = self.overview
        except AmbiguousFamilyError as error:
            said = self.statement
            each = [dataclasses.replace(said.choices, family=name) for name in error.families]
            return tuple(
                Inspection(self.path, dataclasses.replace(said, choices=one)) for one in each
            )
        return (self,)

    @cached_property
    def cost(self) -> Cost:
        """What one image costs."""
        return cost(self.network)

    @cached_property
    def levels(self) -> Levels:
        """How the weights of every layer use their levels."""
        return levels(self.network)

    @cached_property
    def weights(self) -> WeightErrors:
        """The weights of every layer before and after quantization; an export needs its checkpoint.

        Raises:
            ExportError: The checkpoint of an export is gone, or another.
        """
        return weight_errors(self.source, self.network)

    def weights_if_known(self) -> tuple[WeightErrors | None, ApotExportError | None]:
        """Return `weights`, or the error that says why an export's are not known.

        Raises:
            ApotExportError: A checkpoint cannot be read, or the one that was stated of an export.
        """
        try:
            return self.weights, None
        except (ApotExportError, ModuleNotFoundError) as error:
            if self.statement.checkpoint is not None or self.kind == "checkpoint":
                raise
            if isinstance(error, ModuleNotFoundError):
                return None, MissingPackageError(error)
            return None, error

    @cached_property
    def bits(self) -> Widths:
        """The bits of every layer's weights."""
        return widths(self.path, self.network)

    @cached_property
    def alphas(self) -> Thresholds:
        """The clipping thresholds of every quantized layer."""
        choices = self.statement.choices
        return thresholds(
            self._packed_file or self.path, bits=choices.bits, weights=choices.weights
        )

    @property
    def stored_alphas(self) -> Thresholds:
        """The thresholds that the network is stored with."""
        family = self.overview.family or "unknown"
        return Thresholds(source=self.path, family=family, layers=thresholds_of(self.network))

    @cached_property
    def network(self) -> CodedNetwork:
        """The coded network: of an export as it is stored, of a checkpoint as `convert` makes it.

        Raises:
            ExportError: An ONNX model without the packed file of its export.
        """
        if self._packed is not None:
            return self._packed.network
        if self.kind == "ONNX model":
            raise ExportError(
                "The codes of an ONNX model are read from the packed file of its export.",
                where=str(self.path),
                expected=f"{PACKED_MODEL} and {MANIFEST} beside it, which names this model",
                fix="name the export's folder",
            )
        from apot_export.encoding.encode import encode_network

        terms = self._original.choices.alpha_terms
        return encode_network(self.source, alpha_terms=terms)

    @cached_property
    def source(self) -> SourceNetwork:
        """The network as training left it; an export needs its checkpoint.

        Raises:
            ExportError: The checkpoint of an export is gone, or another.
        """
        from apot_export.encoding.capture import capture

        original = self._original
        quantizers: dict[str, Any] = {**original.multi_bit, **original.powers_of_two}
        return capture(original.module, original.architecture.input_shape, quantizers)

    # --- where things are -------------------------------------------------------------------------

    @cached_property
    def _folder(self) -> Path | None:
        """The export's folder; None for what lies in none."""
        if self.kind == "export":
            return self.path
        beside = self.path.parent
        is_one = (beside / MANIFEST).is_file() and (beside / PACKED_MODEL).is_file()
        return beside if is_one and self.path.name in read_manifest(beside)["files"] else None

    @cached_property
    def _manifest(self) -> Mapping[str, Any] | None:
        return None if self._folder is None else read_manifest(self._folder)

    @cached_property
    def _packed_file(self) -> Path | None:
        file = packed_file(self.path)
        if file is None and self.kind == "ONNX model" and self._folder is not None:
            file = self._folder / PACKED_MODEL
        return file

    @cached_property
    def _packed(self) -> PackedNetwork | None:
        return None if self._packed_file is None else load_packed(self._packed_file)

    @property
    def _bytes(self) -> dict[str, int]:
        files = [self.path]
        if self.kind == "export":
            files = sorted(one for one in self.path.iterdir() if one.is_file())
        found = {file.name: file.stat().st_size for file in files}
        for name, tensor in (self._packed.stored or {} if self._packed else {}).items():
            part = f"{PACKED_MODEL}: {name.rpartition('.')[2]}"
            found[part] = found.get(part, 0) + tensor.nbytes
        return found

    def _of_model(self) -> dict[str, Any]:
        from apot_export.artifacts.onnx_model.summary import summary

        found = summary(self.path)
        return {part: found.pop(part) for part in ("inputs", "outputs")} | {"model": found}

    # --- checkpoints ------------------------------------------------------------------------------

    @cached_property
    def _original(self) -> Original:
        from apot_export.original.opening import model_spec, open_original

        if self.kind != "checkpoint":
            return self._recorded_original()
        said = self.statement
        spec = model_spec(self.path, said.model, said.model_arguments, said.input_shape)
        return open_original(self.path, said.choices, spec, said.input_shape)

    def _recorded_original(self) -> Original:
        from apot_export.original.opening import open_original
        from apot_export.original.recorded import recorded_choices, require_recorded

        folder, manifest, said = self._folder, self._manifest, self.statement
        if folder is None or manifest is None:
            raise ExportError(
                "The weights before quantization are in the checkpoint.",
                where=str(self.path),
                expected="the folder of an export, whose manifest names it, or the checkpoint",
                fix="name one of these",
            )
        choices, spec, shape = recorded_choices(folder, manifest)
        if spec is not None:
            if said.model is None:
                raise ExportError(
                    "The export is of a custom network: reading it means running its code.",
                    where=str(folder),
                    expected="the factory that it was converted with",
                    fix=f"allow this: --model {spec.factory}",
                )
            spec = dataclasses.replace(spec, factory=said.model)
        file = said.checkpoint or recorded_file(
            folder,
            manifest,
            if_in_memory="name the export of a checkpoint",
            if_gone="say where it is: --checkpoint FILE",
        )
        original = open_original(file, choices, spec, None if spec else shape)
        fix = "name the right file with --checkpoint, or inspect this one by itself"
        require_recorded(original, manifest, file, fix=fix)
        return original

    def _of_checkpoint(self) -> dict[str, Any]:
        from apot_export.original.parts import stated_parts

        original = self._original
        record = original.checkpoint.record if original.checkpoint else None
        return {
            "architecture": original.architecture.name,
            "family": original.family.name,
            "assumptions": stated_parts(original),
            "record": record.to_json() if record else None,
        }

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "path", self.path
        yield "kind", self.kind


@checked(Choices)
def inspect(
    path: str | PathLike[str],
    *,
    model: str | None = None,
    model_arguments: Mapping[str, Any] | None = None,
    input_shape: Sequence[int] | str | None = None,
    checkpoint: str | PathLike[str] | None = None,
    choices: Choices | None = None,
    **stated: Unpack[Stated],
) -> Inspection:
    """Look inside a checkpoint, an export's folder, a packed file or an ONNX model.

    Only checkpoints need PyTorch.

    Args:
        path: What to look into.
        model: Factory of a custom network, whose code this runs: see `convert`, as for the others.
        model_arguments: Keyword arguments of the factory.
        input_shape: Of one image (channels, height, width).
        checkpoint: That of an export, where it is no longer where it was; for `weights`.
        choices: How a checkpoint was trained, as far as its name and layers do not tell.
        **stated: Fields of `Choices`, in place of one: `bits=4`, ...

    Returns:
        An object with `overview`, `cost`, `levels`, `weights`, `alphas` and `bits`, each of which
        has `to_json()`.

    Raises:
        ExportError: There is nothing of the kind. Views raise `ApotExportError` when they are first
            asked for something damaged.
    """
    statement = Statement(
        choices=choices or Choices(**stated),
        model=model,
        model_arguments=model_arguments,
        input_shape=input_shape,
        checkpoint=None if checkpoint is None else Path(checkpoint),
    )
    found = Inspection(Path(path), statement)
    _ = found.kind
    return found
