"""From a checkpoint to an export directory."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from apot_export.arguments import checked
from apot_export.artifacts.directory import (
    PACKED_MODEL,
    default_directory,
    export_name,
    write_export,
)
from apot_export.artifacts.onnx_model.lowering import PORTABLE
from apot_export.conversion.any_size import at_any_size
from apot_export.conversion.faithful import require_same_results
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.conversion.interface import is_published
from apot_export.conversion.output import TOOL, Output
from apot_export.conversion.premise import require_supported
from apot_export.conversion.result import ConversionResult, Sizes, image_size
from apot_export.encoding.capture import capture
from apot_export.encoding.encode import encode_network
from apot_export.errors import IntegerError
from apot_export.original.checkpoint import require_checkpoint_file
from apot_export.original.choices import Choices, Stated
from apot_export.original.custom import ModelSpec, unwrapped
from apot_export.original.opening import model_spec, open_original
from apot_export.original.original import Original
from apot_export.original.parts import stated_parts
from apot_export.original.published import spelled_as_in
from apot_export.original.quantization import FLOAT, OPTION

if TYPE_CHECKING:
    from typing_extensions import Unpack


@checked(Choices)
def convert(
    checkpoint: str | PathLike[str] | nn.Module,
    directory: str | PathLike[str] | None = None,
    *,
    model: str | None = None,
    model_arguments: Mapping[str, Any] | None = None,
    input_shape: Sequence[int] | str | None = None,
    choices: Choices | None = None,
    integer: IntegerChoices | None = None,
    compress: bool = False,
    target: str = PORTABLE,
    batch: int = 0,
    keep_functions: bool = False,
    dynamic_size: bool = False,
    opset: int = 0,
    trust_options: bool = False,
    force: bool = False,
    **stated: Unpack[Stated],
) -> ConversionResult:
    """Convert a checkpoint, or a network in memory.

    Args:
        checkpoint: The file, or a module, which stays as it is.
        directory: The export directory; None for one named after the checkpoint, here.
        model: Factory of a custom network, as `package.module:factory`: it is imported and called,
            and gets the checkpoint's tensors. None for the published architectures.
        model_arguments: Keyword arguments of the factory, Python literals.
        input_shape: Of one image (channels, height, width); None for the published architecture's.
        choices: How the network was trained, as far as its name and layers do not tell.
        integer: How to write the all-integer network, too; None: do not.
        compress: Entropy-code the codes in the packed file; not together with `integer`.
        target: Runtime of the ONNX model: "portable", "cpu", "cuda", "openvino", or "plain" for
            clients that know old standard operators only.
        batch: Images in every batch of target "plain"; 0 for any number.
        keep_functions: Leave the `apot` functions of target "plain" in.
        dynamic_size: Leave the ONNX model's height and width open; the integer model's stay fixed.
        opset: Operator set of the ONNX models, where an older one will do; 0 for the target's own.
        trust_options: Convert also what the checkpoint's batch-norms contradict.
        force: Replace an earlier export in `directory`.
        **stated: Fields of `Choices`, in place of one: `bits=4`, `method="uniform"`, ...

    Raises:
        ApotExportError: With what is wrong with the input; nothing is left half-written.
    """
    started = time.perf_counter()
    path, name = _path_and_name(checkpoint)
    options: dict[str, Any] = {"target": target, "batch": batch, "keep_functions": keep_functions}
    output = Output(
        folder=Path(directory or (default_directory(path) if path else name)),
        name=name,
        model={**options, "dynamic_size": dynamic_size, "opset": opset},
        integer=integer,
        compress=compress,
        force=force,
    )
    output.require_possible()
    spec = model_spec(checkpoint, model, model_arguments, input_shape)
    original = open_original(checkpoint, choices or Choices(**stated), spec, input_shape)
    statistics = require_supported(original, trust=trust_options)
    return _export(original, spec, output, path, statistics, started)


def _path_and_name(checkpoint: str | PathLike[str] | nn.Module) -> tuple[Path | None, str]:
    if isinstance(checkpoint, nn.Module):
        return None, type(unwrapped(checkpoint)).__name__
    path = Path(checkpoint)
    require_checkpoint_file(path)
    # File names may be any bytes; the strings of artifacts are Unicode.
    return path, export_name(path).encode(errors="backslashreplace").decode()


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
    source = capture(original.module, original.architecture.input_shape, quantizers)
    if original.observed is not None:
        require_same_results(source, original.module, original.observed)
    notes = original.checkpoint.notes if original.checkpoint else ()
    of_model: tuple[str, ...] = ()
    if output.model["dynamic_size"]:
        source, of_model = at_any_size(original.module, source, quantizers)
    with spelled_as_in(original.checkpoint):
        coded = encode_network(source, alpha_terms=original.choices.alpha_terms)
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
    return ConversionResult.of(
        original,
        Sizes.of(coded, original, made.files[PACKED_MODEL], path),
        path=output.folder,
        files=written,
        target=output.model["target"],
        image_size=image_size(dynamic=output.model["dynamic_size"]),
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
