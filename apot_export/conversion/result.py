"""What a conversion wrote, and what it took the checkpoint for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apot_export.artifacts.packed import tensor_bytes
from apot_export.network import CodedLayer, CodedNetwork, FloatLayer, PlaneLayer
from apot_export.network.codebook import storage_bytes
from apot_export.network.shown import Shown
from apot_export.original.original import Original
from apot_export.original.parts import stated_parts
from apot_export.original.quantized_layers import ThresholdLayer


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many weights there are, and how many bits they take."""

    bits: float
    """Nominal bits of a weight; 32 for full precision, the average of multi-bit weights."""
    weights: int
    """Number of weights that are stored as codes."""
    code_bits: int
    """Bits that these codes take in the packed file, before each layer is filled to whole bytes."""
    weight_error: float
    """Root mean square of what --alpha-terms changed, relative to that of the weights."""
    checkpoint_bytes: int
    """Bytes of the checkpoint, or of the tensors of a network in memory."""
    float32_bytes: int
    """Bytes of the weights of all layers as float32 numbers."""

    @staticmethod
    def of(coded: CodedNetwork, original: Original, packed: bytes, path: Path | None) -> Sizes:
        """Measure an export from its network, its packed file and the checkpoint's path."""
        state = original.module.state_dict().values()
        average = _average_bits(coded)
        return Sizes(
            bits=original.quantization.weight_bits if average is None else average,
            weights=sum(
                math.prod(layer.shape)
                for layer in coded.layers.values()
                if not isinstance(layer, FloatLayer)
            ),
            code_bits=_code_bits(coded, packed),
            weight_error=_weight_error(original, coded) if original.choices.alpha_terms else 0.0,
            checkpoint_bytes=path.stat().st_size
            if path
            else sum(tensor.numel() * tensor.element_size() for tensor in state),
            float32_bytes=sum(4 * math.prod(layer.shape) for layer in coded.layers.values()),
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class ConversionResult(Shown):
    """What was written, and what the checkpoint was taken for."""

    path: Path
    """The export directory."""
    family: str
    architecture: str
    bits: float
    """Nominal bits of a weight; 32 for full precision, the average of multi-bit weights."""
    bits_from: str
    method: str
    """Level set of weights: "apot", "pot" or "uniform"."""
    method_from: str
    grid: str
    """Grid of 2-bit weights: "zero" or "nonzero"."""
    grid_from: str
    z: int | None
    """Exponent of the non-zero grid; None for a grid with zero."""
    activation_bits: int
    activation_method: str
    """Level set of activations, as `method` for weights."""
    first_last: str
    """Weights of the first convolution and the last linear layer: "8bit" or "float"."""
    layer_bits: int
    """Number of layers whose bit-widths the user gave by name."""
    assumptions: list[dict[str, Any]]
    """Every part of the quantization: what, value, source ("assumption" where nothing states it)"""
    files: dict[str, int]
    """Bytes of every file by name."""
    weights: int
    """See `Sizes`, as for the four below."""
    code_bits: int
    weight_error: float
    checkpoint_bytes: int
    float32_bytes: int
    notes: tuple[str, ...]
    """Sentences on what was taken from the checkpoint's file, left out or converted."""
    seconds: float
    target: str
    """Runtime that the ONNX model is lowered for."""
    faster_on_cpus: bool
    """Whether target "cpu" measured faster in ONNX Runtime on CPUs than the "portable" written."""
    image_size: str
    """Of the ONNX model: "fixed" or "dynamic"."""
    statistics: dict[str, Any] | None
    """Which weights batch-norms support, whether that is decisive, and whether it agrees."""
    integer: dict[str, Any] | None
    """What the manifest records about the integer network; None without one."""
    compressed: bool = False
    """Whether codes that get smaller by it are entropy-coded in the packed file."""

    @staticmethod
    def of(original: Original, sizes: Sizes, **written: Any) -> ConversionResult:
        """Describe a conversion: its original, its sizes, and the remaining fields."""
        quantization = original.quantization
        usual = (quantization.weight_bits, quantization.activation_bits)
        layers = [
            (module.quantization.weight_bits, module.quantization.activation_bits)
            for module in original.module.modules()
            if isinstance(module, ThresholdLayer)
        ]
        return ConversionResult(
            family=original.family.name,
            architecture=original.architecture.name,
            z=quantization.z if quantization.grid == "nonzero" else None,
            activation_bits=quantization.activation_bits,
            activation_method=quantization.activation_method,
            first_last=original.plan.first_last.value,
            layer_bits=sum(bits != usual for bits in layers) + len(original.plan.floats),
            assumptions=stated_parts(original),
            **{**original.plan.to_json(), **vars(sizes)},
            **written,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        return {**dataclasses.asdict(self), "path": str(self.path)}

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "path", self.path
        yield "network", self.architecture
        yield "family", self.family
        yield "bits", f"{self.bits:.4g}"
        yield "level set", self.method
        yield "target", self.target
        yield (
            "integer network",
            f"{self.integer['fraction_bits']} fraction bits" if self.integer else None,
        )
        yield "bytes", f"{sum(self.files.values()):,} in {len(self.files)} files"
        yield from (("note", note) for note in self.notes)


def _code_bits(coded: CodedNetwork, packed: bytes) -> int:
    """Return the bits of all codes, without what fills a plain stream to whole bytes."""
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


def _average_bits(coded: CodedNetwork) -> float | None:
    """Return the mean bits of multi-bit weights; None where there are none."""
    planes = [layer.planes for layer in coded.layers.values() if isinstance(layer, PlaneLayer)]
    if not planes:
        return None
    weights = [math.prod(plane.shape) for plane in planes]
    return float(np.average([plane.average_bits() for plane in planes], weights=weights))


def _weight_error(original: Original, coded: CodedNetwork) -> float:
    changed = total = 0.0
    state = original.checkpoint.state if original.checkpoint else {}
    for name, layer in coded.layers.items():
        if isinstance(layer, PlaneLayer):
            weight = state[f"{name}.weight"].numpy().astype(np.float64)
            changed += float(((layer.weights() - weight) ** 2).sum())
            total += float((weight**2).sum())
    return math.sqrt(changed / total) if total else 0.0
