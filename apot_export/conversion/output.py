"""The files of an export, made from a coded network, and the form in which they are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from apot_export._version import VERSION
from apot_export.artifacts.directory import INTEGER_MODEL, ONNX_MODEL, PACKED_MODEL, require_free
from apot_export.artifacts.onnx_model import build_integer_model, build_model, serialise
from apot_export.artifacts.onnx_model.lowering import PLAIN, require_target
from apot_export.artifacts.packed.writing import packed_file_bytes, require_compressible
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.network import CodedNetwork

if TYPE_CHECKING:
    from apot_export.conversion.calibration import IntegerForm

TOOL = f"apot-export {VERSION}"


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where and in which form an export is written."""

    folder: Path
    name: str
    model: dict[str, Any]
    """Options of `build_model`."""
    integer: IntegerChoices | None
    """How the all-integer network is written, too; None: not."""
    compress: bool
    force: bool

    def require_possible(self) -> None:
        """Raise `ApotExportError` where it cannot be written, or not in this form."""
        require_free(self.folder, force=self.force)
        require_target(**self.model)
        require_compressible(compress=self.compress, integer=self.integer is not None)

    def files(
        self,
        coded: CodedNetwork,
        provenance: Mapping[str, Any],
        preprocessing: str,
        module: nn.Module | None,
    ) -> tuple[dict[str, bytes], IntegerForm | None]:
        """Return the contents of the export's files by name, and its all-integer network.

        Args:
            coded: The network.
            provenance: What every artifact records about the original.
            preprocessing: Of calibration images: see `Family.preprocessing`.
            module: The original, for calibration; None where it is not there.
        """
        metadata = {"apot_export": json.dumps(provenance, sort_keys=True)}
        model = build_model(coded, name=self.name, tool=TOOL, metadata=metadata, **self.model)
        form = None
        if self.integer is not None:
            # It imports what other conversions do without: datasets, and with them torchvision.
            from apot_export.conversion.calibration import integer_form

            form = integer_form(coded, model, self.integer, preprocessing, module)
        network = form.network if form else None
        packed = packed_file_bytes(coded, provenance, network, compress=self.compress)
        files = {ONNX_MODEL: serialise(model), PACKED_MODEL: packed}
        if network is not None:
            model = build_integer_model(
                coded,
                network,
                name=self.name,
                tool=TOOL,
                metadata=metadata,
                plain=self.model["target"] == PLAIN,
                batch=self.model["batch"],
            )
            files[INTEGER_MODEL] = serialise(model)
        return files, form
