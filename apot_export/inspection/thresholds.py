"""What `inspect` shows: read from an export with numpy alone, from a checkpoint with PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apot_export.artifacts.directory import PACKED_MODEL, read_manifest
from apot_export.artifacts.packed import load_packed
from apot_export.errors import BitWidthError, ExportError, RecognitionError
from apot_export.network import CodedLayer, Layer, PlaneLayer
from apot_export.original import families
from apot_export.original.families import Dialect
from apot_export.original.naming import BitWidth, bits_from_name, method_from_name, require_offered

_FLOAT_BITS = 32
_PACKED_SUFFIX = ".safetensors"
_WEIGHT_ALPHA = ".weight_alpha"


@dataclass(frozen=True, kw_only=True)
class LayerThresholds:
    """Clipping thresholds of one quantized layer."""

    layer: str
    weight_alpha: float
    activation_alpha: float
    weight_bits: int | None
    """Nominal bits, the sign included; None where a checkpoint's name does not say."""
    activation_bits: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        return {
            "layer": self.layer,
            "weight_alpha": self.weight_alpha,
            "activation_alpha": self.activation_alpha,
            "weight_bits": self.weight_bits,
            "activation_bits": self.activation_bits,
        }


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The clipping thresholds of a network, in order of computation."""

    source: Path
    family: str
    layers: tuple[LayerThresholds, ...]

    def plain_lines(self) -> list[str]:
        """Return one line a layer, exactly as the family's own training code prints it."""
        dialect = families.by_name(self.family)
        return [
            dialect.alpha_line(layer.weight_alpha, layer.activation_alpha) for layer in self.layers
        ]


def thresholds(path: Path, *, bits: int | None = None) -> Thresholds:
    """Read the thresholds of an export directory, a packed file or a checkpoint.

    Args:
        path: What to read.
        bits: A checkpoint's nominal bit-width, where its name does not say it.

    Raises:
        ApotExportError: The path holds none of these.
    """
    packed = _packed_file(path)
    return _of_checkpoint(path, bits) if packed is None else _of_export(packed)


def _packed_file(path: Path) -> Path | None:
    """Return the packed file of an export directory, a packed file itself, or None.

    Raises:
        ExportError: A directory is no export.
    """
    if not _is_folder(path):
        return path if path.suffix == _PACKED_SUFFIX else None
    if not (path / PACKED_MODEL).is_file():
        raise ExportError(
            "The directory is not an export.",
            where=str(path),
            expected=f"a {PACKED_MODEL} written by apot-export convert",
            fix="name an export's directory, a packed file or a checkpoint",
        )
    return path / PACKED_MODEL


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that no file can have
        return False


def _of_export(path: Path) -> Thresholds:
    packed = load_packed(path)
    layers = [
        LayerThresholds(
            layer=layer.name,
            weight_alpha=layer.alpha,
            activation_alpha=float(layer.activation.alpha),
            weight_bits=layer.codebook.bits,
            activation_bits=layer.activation.codebook.bits,
        )
        for layer in packed.layers.values()
        if isinstance(layer, CodedLayer) and layer.alpha is not None and layer.activation
    ]
    family = str(packed.provenance.get("family", "unknown"))
    return Thresholds(source=path, family=family, layers=tuple(layers))


def _of_checkpoint(path: Path, bits: int | None) -> Thresholds:
    from apot_export.original.checkpoint import load_checkpoint, require_finite
    from apot_export.original.original import canonical_state

    checkpoint = load_checkpoint(path)
    dialect = families.recognise(checkpoint.keys)
    state = canonical_state(checkpoint, dialect)
    width = _bit_width(path, dialect, bits)
    layers = []
    for key in state:
        if not key.endswith(_WEIGHT_ALPHA):
            continue
        layer = key.removesuffix(_WEIGHT_ALPHA)
        pair = {name: state.get(name) for name in (key, f"{layer}.act_alpha")}
        alphas = {name: alpha for name, alpha in pair.items() if alpha is not None}
        if [alpha.numel() for alpha in alphas.values()] != [1, 1]:
            raise RecognitionError(
                "A layer of the checkpoint does not have its two thresholds.",
                where=layer,
                expected=", ".join(f"{name} (one number)" for name in pair),
                got=", ".join(f"{name} {list(alpha.shape)}" for name, alpha in alphas.items()),
            )
        require_finite(alphas)
        weight_alpha, activation_alpha = map(float, alphas.values())
        layers.append(
            LayerThresholds(
                layer=layer,
                weight_alpha=weight_alpha,
                activation_alpha=activation_alpha,
                weight_bits=width,
                activation_bits=width,
            )
        )
    return Thresholds(source=path, family=dialect.name, layers=tuple(layers))


def _bit_width(path: Path, dialect: Dialect, option: int | None) -> int | None:
    """Return the option, or what the name says where that makes sense: alphas show without it."""
    offered = dialect.bit_widths(method_from_name(path)[0])
    if option is not None:
        width = BitWidth(bits=option, source="option")
        require_offered(width, dialect.name, offered, path)
        return option
    try:
        named = bits_from_name(path)
    except BitWidthError:
        return None
    return named.bits if named is not None and named.bits in offered else None


# --- bits -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LayerWidth:
    """How many bits the weights of one layer take."""

    layer: str
    kind: str
    """"codes", "sign vectors" or "float"."""
    weights: int
    bits: float
    """Bits of a code, average number of sign vectors of a group, or 32."""
    filters: int | None
    """Sign vectors of all groups, "binary filters" to the code that trained them; else None."""
    stored_bits: int
    """Bits of codes, or of sign vectors and their coordinates, before filling to whole bytes."""

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        return {
            "layer": self.layer,
            "kind": self.kind,
            "weights": self.weights,
            "bits": self.bits,
            "filters": self.filters,
            "stored_bits": self.stored_bits,
        }


@dataclass(frozen=True, kw_only=True)
class Widths:
    """The bits of a network's weights, layer by layer in order of computation."""

    source: Path
    layers: tuple[LayerWidth, ...]

    @property
    def average(self) -> float:
        """Bits of a weight, averaged over all weights."""
        weights = sum(layer.weights for layer in self.layers)
        return sum(layer.bits * layer.weights for layer in self.layers) / weights

    def plain_lines(self) -> list[str]:
        """Return what the code that trains multi-bit weights prints, numbers alone."""
        filters = [str(layer.filters) for layer in self.layers if layer.filters is not None]
        return [
            *(["currrent binary filter number per layer: ", *filters] if filters else []),
            "currrent average bitwidth per layer: ",
            *(f"{layer.bits:.4f}" for layer in self.layers),
            f"currrent average bitwidth:  {self.average:.4f}",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        return {"average": self.average, "layers": [layer.to_json() for layer in self.layers]}


def layer_bits(path: Path) -> Widths:
    """Read the bits of every layer's weights of an export directory or a packed file.

    Raises:
        ApotExportError: The path holds neither.
    """
    packed = _packed_file(path)
    if packed is None:
        raise ExportError(
            "Bits are shown of exports.",
            where=str(path),
            expected="an export's directory or a packed file (*.safetensors)",
            fix="convert the checkpoint first",
        )
    layers = load_packed(packed).layers.values()
    return Widths(source=path, layers=tuple(_width(layer) for layer in layers))


def _width(layer: Layer) -> LayerWidth:
    weights = math.prod(layer.shape)
    kind, bits, filters, stored = "float", float(_FLOAT_BITS), None, weights * _FLOAT_BITS
    if isinstance(layer, CodedLayer):
        kind, bits = "codes", float(layer.codebook.bits)
        encoded = layer.encoded
        stored = weights * layer.codebook.bits if encoded is None else 8 * encoded.stored_bytes
    elif isinstance(layer, PlaneLayer):
        kind, bits, filters = "sign vectors", layer.planes.average_bits(), layer.planes.filters
        stored = layer.planes.storage_bits()
    return LayerWidth(
        layer=layer.name, kind=kind, weights=weights, bits=bits, filters=filters, stored_bits=stored
    )


# --- the integer network --------------------------------------------------------------------------


def integer_summary(directory: Path) -> Mapping[str, Any]:
    """Return what an export's manifest says of its integer network.

    Returns:
        Fraction bits and where they come from, input, scale of the logits; by node, `operations`
        (additions, shifts, comparisons of one image without a multiplier, bits of the widest
        intermediate value) and `ranges` (smallest and largest value).

    Raises:
        ExportError: The directory is no export, or has no integer network.
    """
    found: Mapping[str, Any] | None = read_manifest(directory).get("integer")
    if found is None:
        raise ExportError(
            "The export has no integer network.",
            where=str(directory),
            fix="convert the checkpoint with --integer",
        )
    return found
