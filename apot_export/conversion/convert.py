"""From a checkpoint to an export directory."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from apot_export._version import VERSION
from apot_export.artifacts.directory import (
    INTEGER_MODEL,
    ONNX_MODEL,
    PACKED_MODEL,
    export_name,
    require_free,
    write_export,
)
from apot_export.artifacts.onnx_model import build_integer_model, build_model, serialise
from apot_export.artifacts.onnx_model.targets import PORTABLE, require_target
from apot_export.artifacts.packed import tensor_bytes
from apot_export.artifacts.packed.writing import packed_file_bytes, require_compressible
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.conversion.result import ConversionResult
from apot_export.encoding.capture import capture
from apot_export.encoding.encode import encode_network
from apot_export.network import (
    CodedLayer,
    CodedNetwork,
    FloatLayer,
    PlaneLayer,
)
from apot_export.network.codebook import storage_bytes
from apot_export.original.checkpoint import require_checkpoint_file
from apot_export.original.choices import Choices
from apot_export.original.opening import complete_choices, model_spec, open_original
from apot_export.original.original import Original
from apot_export.original.quantized_layers import QuantConv2d

if TYPE_CHECKING:
    import onnx

    from apot_export.conversion.calibration import IntegerForm


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
    force: bool = False,
    **said: Any,
) -> ConversionResult:
    """Convert a checkpoint, or a network in memory.

    Args:
        checkpoint: The `.pth.tar` file, or a module, which stays as it is.
        directory: The export directory; None for one named after the checkpoint, here.
        model: Factory of a network of the user's own, as `package.module:factory`: it is imported
            and called, and gets the checkpoint's tensors. None for the known architectures.
        model_arguments: Keyword arguments of the factory, Python literals.
        input_shape: One image of a network of the user's own: channels, height, width.
        choices: What is known of the checkpoint beyond its name.
        integer: Write the all-integer network, too, as these choices say; None: do not.
        compress: Entropy-code the codes in the packed file; not together with `integer`.
        target: Runtime that the ONNX model is lowered for: "portable", "cpu", "cuda", "openvino".
        force: Replace an earlier export in `directory`.
        **said: Fields of `Choices`, in place of one: `bits=4`, `method="uniform"`, ...

    Raises:
        ApotExportError: With what is wrong with the input; nothing is left half-written.
    """
    started = time.perf_counter()
    path = None if isinstance(checkpoint, nn.Module) else Path(checkpoint)
    if path is not None:
        require_checkpoint_file(path)
    export = type(checkpoint).__name__ if path is None else export_name(path)
    folder = Path(export if directory is None else directory)
    require_free(folder, force=force)
    require_target(target)
    require_compressible(compress=compress, integer=integer is not None)
    chosen = choices or Choices(**said)
    spec = model_spec(checkpoint, model, model_arguments, input_shape)
    original = open_original(checkpoint, chosen, spec, input_shape)
    source = capture(original.module, original.architecture.input_shape, original.multi_bit)
    coded = encode_network(source, alpha_terms=chosen.alpha_terms)
    complete = complete_choices(chosen, original)
    tool = f"apot-export {VERSION}"
    provenance = {
        "tool": tool,
        "checkpoint_sha256": original.checkpoint.sha256 if original.checkpoint else None,
        "family": original.family.name,
        "architecture": original.architecture.name,
        "choices": complete.non_default(),
    }
    if original.state_sha256 is not None:
        provenance["state_sha256"] = original.state_sha256
    # File names may be any bytes; the strings of artifacts are Unicode.
    name = export.encode(errors="backslashreplace").decode()
    metadata = {"apot_export": json.dumps(provenance, sort_keys=True)}
    onnx_model = build_model(coded, name=name, tool=tool, metadata=metadata, target=target)
    form = None if integer is None else _integer_form(coded, onnx_model, original, integer)
    files = {
        ONNX_MODEL: serialise(onnx_model),
        PACKED_MODEL: packed_file_bytes(
            coded, provenance, form.network if form else None, compress=compress
        ),
    }
    if form is not None:
        integer_model = build_integer_model(
            coded, form.network, name=name, tool=tool, metadata=metadata
        )
        files[INTEGER_MODEL] = serialise(integer_model)
    manifest = {
        **provenance,
        "bits": original.quantization.weight_bits,
        "bits_from": original.bits_from,
        "method": original.quantization.method,
        "method_from": original.method_from,
        "grid": original.quantization.grid,
        "grid_from": original.grid_from,
        "choices": complete.to_json(),
        "name": name,
        "target": target,
        "input_shape": list(original.architecture.input_shape),
        "checkpoint": {
            # Relative, so that a folder with checkpoint and export can move as one.
            "path": os.path.relpath(path.absolute(), folder.absolute()) if path else None,
            "sha256": provenance["checkpoint_sha256"],
        },
    }
    if spec is not None:
        manifest["model"] = spec.to_json()
    if form is not None:
        manifest["integer"] = form.to_json()
    if compress:
        manifest["compressed"] = True
    sizes = write_export(folder, files, manifest, force=force)
    return ConversionResult(
        path=folder,
        family=original.family.name,
        architecture=original.architecture.name,
        bits=_bits(coded, original),
        bits_from=original.bits_from,
        method=original.quantization.method,
        method_from=original.method_from,
        grid=original.quantization.grid,
        grid_from=original.grid_from,
        z=original.quantization.z if original.quantization.grid == "nonzero" else None,
        activation_bits=original.quantization.activation_bits,
        layer_bits=_exceptions(original),
        files=sizes,
        weights=sum(
            math.prod(layer.shape)
            for layer in coded.layers.values()
            if not isinstance(layer, FloatLayer)
        ),
        code_bits=_code_bits(coded, files[PACKED_MODEL]),
        weight_error=_weight_error(original, coded) if chosen.alpha_terms else 0.0,
        checkpoint_bytes=path.stat().st_size if path else _state_bytes(original.module),
        seconds=time.perf_counter() - started,
        target=target,
        integer=None if form is None else form.to_json(),
        compressed=compress,
    )


def _integer_form(
    coded: CodedNetwork, model: onnx.ModelProto, original: Original, choices: IntegerChoices
) -> IntegerForm:
    # It imports what other conversions do without: datasets, and with them torchvision.
    from apot_export.conversion.calibration import integer_form

    return integer_form(coded, model, original, choices)


def _exceptions(original: Original) -> int:
    own = [
        layer.quantization for layer in original.module.modules() if isinstance(layer, QuantConv2d)
    ]
    return sum(quantization != original.quantization for quantization in own)


def _state_bytes(module: nn.Module) -> int:
    tensors: list[torch.Tensor] = list(module.state_dict().values())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _code_bits(coded: CodedNetwork, packed: bytes) -> int:
    """Return the bits of all codes; of a bit stream those that carry something."""
    stored = tensor_bytes(packed)
    total = 0
    for name, layer in coded.layers.items():
        if isinstance(layer, CodedLayer):
            size = stored[f"{name}.codes"]
            is_stream = size == storage_bytes(layer.shape, layer.codebook.bits)
            total += math.prod(layer.shape) * layer.codebook.bits if is_stream else 8 * size
        elif isinstance(layer, PlaneLayer):
            total += layer.planes.storage_bits()
    return total


def _bits(coded: CodedNetwork, original: Original) -> float:
    planes = [layer.planes for layer in coded.layers.values() if isinstance(layer, PlaneLayer)]
    if not planes:
        return original.quantization.weight_bits
    weights = [math.prod(plane.shape) for plane in planes]
    bits = sum(n * plane.average_bits() for n, plane in zip(weights, planes, strict=True))
    return bits / sum(weights)


def _weight_error(original: Original, coded: CodedNetwork) -> float:
    changed = total = 0.0
    state = original.checkpoint.state if original.checkpoint else {}
    for name, layer in coded.layers.items():
        if isinstance(layer, PlaneLayer):
            weight = state[f"{name}.weight"].numpy().astype(np.float64)
            changed += float(((layer.weights() - weight) ** 2).sum())
            total += float((weight**2).sum())
    return math.sqrt(changed / total) if total else 0.0
