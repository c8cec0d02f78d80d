"""The files of an export, made from a coded network, and the form in which they are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apot_export._version import VERSION
from apot_export.artifacts.directory import (
    INTEGER_MODEL,
    ONNX_MODEL,
    PACKED_MODEL,
    SAMPLE,
    require_free,
)
from apot_export.artifacts.onnx_model import (
    build_integer_model,
    build_model,
    model_file,
    serialise,
)
from apot_export.artifacts.onnx_model.lowering import PLAIN, require_target
from apot_export.artifacts.packed.writing import packed_file_bytes, require_compressible
from apot_export.artifacts.sample import Sample
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.conversion.interface import integer_interface, interface_of, with_integer
from apot_export.conversion.readme import readme
from apot_export.conversion.sample import choose_sample, images_at_hand
from apot_export.integer import IntegerNetwork, Pixels
from apot_export.network import CodedNetwork

if TYPE_CHECKING:
    from torch import nn

TOOL = f"apot-export {VERSION}"


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The files of an export, and what its manifest says of them."""

    files: dict[str, bytes]
    """By name."""
    interface: dict[str, Any]
    """See `interface_of`."""
    integer: dict[str, Any] | None
    """See `IntegerForm.to_json`; None without an integer network."""
    sample: dict[str, Any]
    """See `Sample.to_json`."""


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

    @property
    def image_size(self) -> str:
        """What results call the height and width of images."""
        return "dynamic" if self.model["dynamic_size"] else "fixed"

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
        *,
        published: bool,
        sample: Sample | None = None,
    ) -> Contents:
        """Return the contents of the export's files, and what its manifest says of them.

        Args:
            coded: The network.
            provenance: What every artifact records about the original.
            preprocessing: Of calibration images: see `Family.preprocessing`.
            module: The original, for calibration; None where it is not there.
            published: Whether the network is a published one, whose dataset is known.
            sample: Of an earlier export of the network; None to choose one.
        """
        interface = interface_of(coded, preprocessing if published else None)
        metadata = _metadata(provenance, interface)
        model = build_model(coded, name=self.name, tool=TOOL, metadata=metadata, **self.model)
        form = None
        if self.integer is not None:
            # It imports what other conversions do without: datasets, and with them torchvision.
            from apot_export.conversion.calibration import integer_form

            form = integer_form(coded, model, self.integer, preprocessing, module)
        network = form.network if form else None
        content = model_file(model, coded, self.model["target"])
        files = {ONNX_MODEL: content, PACKED_MODEL: b""}
        del model  # of a large network it is as large as the file
        if network is not None:
            of_integers = integer_interface(interface, network)
            interface = with_integer(interface, of_integers)
            metadata = _metadata(provenance, of_integers)
            files[INTEGER_MODEL] = self._integer_model(coded, network, metadata)
        files[PACKED_MODEL] = packed_file_bytes(
            coded, provenance, network, interface=interface, compress=self.compress
        )
        pixels = network.pixels if network else None
        if sample is None or (pixels and sample.images is None):
            sample = self._chosen(coded, interface, pixels, preprocessing)
        # It imports ONNX Runtime.
        from apot_export.runtimes.expected import with_expected

        sample = with_expected(sample, coded, files[ONNX_MODEL], files.get(INTEGER_MODEL))
        files[SAMPLE] = sample.to_bytes()
        facts = {**provenance, "interface": interface, "batch": self.model["batch"]}
        files |= readme(self.name, facts, files, sample)
        described = form.to_json() if form else None
        return Contents(
            files=files, interface=interface, integer=described, sample=sample.to_json()
        )

    def _integer_model(
        self, coded: CodedNetwork, network: IntegerNetwork, metadata: Mapping[str, str]
    ) -> bytes:
        model = build_integer_model(
            coded,
            network,
            name=self.name,
            tool=TOOL,
            metadata=metadata,
            plain=self.model["target"] == PLAIN,
            batch=self.model["batch"],
            opset=self.model["opset"],
        )
        return serialise(model)

    def _chosen(
        self,
        coded: CodedNetwork,
        interface: Mapping[str, Any],
        pixels: Pixels | None,
        preprocessing: str,
    ) -> Sample:
        """Choose inputs: of the data set where it is known and its images are at hand."""
        facts = interface["preprocessing"]
        data = self.integer.data if self.integer else None
        images = None if facts is None else images_at_hand(coded, preprocessing, data)
        return choose_sample(coded, facts, pixels, images)


def _metadata(provenance: Mapping[str, Any], interface: Mapping[str, Any]) -> dict[str, str]:
    """Return the properties of an ONNX model."""
    return {
        "apot_export": json.dumps(provenance, sort_keys=True),
        "interface": json.dumps(interface),
    }
