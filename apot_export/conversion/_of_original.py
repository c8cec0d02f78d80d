"""An export, made of its PyTorch original."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from apot_export.artifacts.directory import PACKED_MODEL, write_export
from apot_export.artifacts.onnx_model.blocks import gains_on_cpus
from apot_export.artifacts.onnx_model.lowering import PORTABLE
from apot_export.conversion.any_size import at_any_size
from apot_export.conversion.faithful import require_same_results
from apot_export.conversion.interface import is_published
from apot_export.conversion.output import TOOL, Output
from apot_export.conversion.premise import require_supported
from apot_export.conversion.result import ConversionResult, Sizes
from apot_export.encoding.capture import capture
from apot_export.encoding.encode import encode_network
from apot_export.errors import IntegerError
from apot_export.original.choices import Choices
from apot_export.original.custom import ModelSpec
from apot_export.original.opening import Source, model_spec, open_original
from apot_export.original.original import Original
from apot_export.original.parts import stated_parts
from apot_export.original.published import spelled_as_in
from apot_export.original.quantization import FLOAT, OPTION


def convert_original(
    source: Source,
    output: Output,
    choices: Choices,
    model: str | None,
    model_arguments: Mapping[str, Any] | None,
    input_shape: Sequence[int] | str | None,
    *,
    trust: bool,
) -> ConversionResult:
    """Open an original and convert it: see `convert`."""
    started = time.perf_counter()
    path = Path(source) if isinstance(source, (str, PathLike)) else None
    spec = model_spec(source, model, model_arguments, input_shape)
    original = open_original(source, choices, spec, input_shape)
    statistics = require_supported(original, trust=trust)
    return _export(original, spec, output, path, statistics, started)


def _export(
    original: Original,
    spec: ModelSpec | None,
    output: Output,
    path: Path | None,
    statistics: dict[str, Any] | None,
    started: float,
) -> ConversionResult:
    """Encode an original, write its export and describe it."""
    if output.integer is not None:
        _require_coded_layers(original)
    quantizers: dict[str, Any] = {**original.multi_bit, **original.powers_of_two}
    network = capture(original.module, original.architecture.input_shape, quantizers)
    if original.observed is not None:
        require_same_results(network, original.module, original.observed)
    notes = original.checkpoint.notes if original.checkpoint else ()
    of_model: tuple[str, ...] = ()
    if output.model["dynamic_size"]:
        network, of_model = at_any_size(original.module, network, quantizers)
    with spelled_as_in(original.checkpoint):
        coded = encode_network(network, alpha_terms=original.choices.alpha_terms)
    manifest = _manifest(original, output, path)
    manifest |= {"model": spec.to_json()} if spec else {}
    made = output.files(
        coded,
        _provenance(original),
        original.family.preprocessing,
        original.module,
        published=is_published(manifest),
    )
    record = original.checkpoint.record if original.checkpoint else None
    optional = {
        "interface": made.interface,
        "sample": made.sample,
        "record": record.to_json() if record else None,
        "notes": notes or None,
        "statistics": statistics,
        "integer": made.integer,
        "compressed": output.compress or None,
    }
    manifest |= {key: value for key, value in optional.items() if value is not None}
    written = write_export(output.folder, made.files, manifest, force=output.force)
    model_form = (output.model["target"], output.image_size)
    return ConversionResult.of(
        original,
        Sizes.of(coded, original, made.files[PACKED_MODEL], path),
        path=output.folder,
        files=written,
        target=output.model["target"],
        faster_on_cpus=model_form == (PORTABLE, "fixed") and gains_on_cpus(coded),
        image_size=output.image_size,
        statistics=statistics,
        integer=made.integer,
        compressed=output.compress,
        notes=(*notes, *of_model),
        seconds=time.perf_counter() - started,
    )


def _require_coded_layers(original: Original) -> None:
    """Raise `IntegerError` for a quantized network with layers that were left in float."""
    plan = original.plan
    layers: tuple[str, ...]
    if original.family.has_thresholds and plan.first_last.value == FLOAT:
        layers = (original.architecture.first, original.architecture.last)
        source = plan.first_last.source
        fix = "round both layers to 8 bits with --first-last 8bit"
    elif plan.floats:
        layers, source = tuple(sorted(plan.floats)), OPTION
        fix = "the --layer-bits that leave these layers in float"
    else:
        return
    raise IntegerError(
        "An all-integer network has no float layers.",
        where=", ".join(layers),
        expected="layers with quantized weights",
        got=f"float32 weights ({source})",
        fix=f"leave out --integer, or {fix}",
    )


def _provenance(original: Original) -> dict[str, Any]:
    """Return what every artifact records about the original."""
    provenance = {
        "tool": TOOL,
        "checkpoint_sha256": original.checkpoint.sha256 if original.checkpoint else None,
        "family": original.family.name,
        "architecture": original.architecture.name,
        "choices": original.choices.non_default(),
    }
    if original.state_sha256 is not None:
        provenance["state_sha256"] = original.state_sha256
    return provenance


def _manifest(original: Original, output: Output, path: Path | None) -> dict[str, Any]:
    """Return what the manifest records about the original, enough to build it again."""
    provenance = _provenance(original)
    return {
        **provenance,
        **original.plan.to_json(),
        "assumptions": stated_parts(original),
        "choices": original.choices.to_json(),
        "name": output.name,
        **{option: value for option, value in output.model.items() if value},
        "input_shape": list(original.architecture.input_shape),
        "checkpoint": {
            # Relative, so that a folder with checkpoint and export can move as one.
            "path": os.path.relpath(path.absolute(), output.folder.absolute()) if path else None,
            "sha256": provenance["checkpoint_sha256"],
        },
    }
