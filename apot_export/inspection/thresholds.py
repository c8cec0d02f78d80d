"""Read clipping thresholds: from an export with numpy alone, from a checkpoint with PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apot_export.artifacts.directory import PACKED_MODEL, no_export
from apot_export.artifacts.packed import is_packed, load_packed
from apot_export.errors import BitWidthError, CodebookError, RecognitionError
from apot_export.network import CodedLayer, CodedNetwork
from apot_export.network.shown import Shown
from apot_export.original import families
from apot_export.original.choices import Choices
from apot_export.original.families import Family
from apot_export.original.quantization import Quantization

_SAFETENSORS, _PACKED_SUFFIX = ".safetensors", ".apot.safetensors"
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


@dataclass(frozen=True, kw_only=True, repr=False)
class Thresholds(Shown):
    """The clipping thresholds of a network, in order of computation."""

    source: Path
    family: str
    layers: tuple[LayerThresholds, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """Return the stable JSON form."""
        return [dataclasses.asdict(layer) for layer in self.layers]

    def plain_lines(self) -> list[str]:
        """Return one line a layer, exactly as the family's own training code prints it."""
        family = families.by_name(self.family)
        return [
            family.alpha_line(layer.weight_alpha, layer.activation_alpha) for layer in self.layers
        ]

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "source", self.source
        yield "family", self.family
        yield "layers", len(self.layers)


def thresholds(path: Path, *, bits: int | None = None, weights: str | None = None) -> Thresholds:
    """Read the thresholds of an export directory, a packed file or a checkpoint.

    Args:
        path: What to read.
        bits: A checkpoint's nominal bit-width, where its name does not say it.
        weights: Which of several sets of weights in a checkpoint to read.

    Raises:
        ApotExportError: The path holds none of these.
    """
    packed = packed_file(path)
    return _of_checkpoint(path, bits, weights) if packed is None else _of_export(packed)


def packed_file(path: Path) -> Path | None:
    """Return the packed file of an export directory, a packed file itself, or None.

    Raises:
        ExportError: A directory is not an export.
    """
    if not _is_folder(path):
        is_one = path.name.endswith(_PACKED_SUFFIX) or (
            path.suffix == _SAFETENSORS and is_packed(path)
        )
        return path if is_one else None
    if not (path / PACKED_MODEL).is_file():
        raise no_export(path, PACKED_MODEL)
    return path / PACKED_MODEL


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that no file can have
        return False


def _of_export(path: Path) -> Thresholds:
    packed = load_packed(path)
    family = str(packed.provenance.get("family", "unknown"))
    return Thresholds(source=path, family=family, layers=thresholds_of(packed.network))


def thresholds_of(network: CodedNetwork) -> tuple[LayerThresholds, ...]:
    """Return the thresholds of the layers that have both."""
    return tuple(
        LayerThresholds(
            layer=layer.name,
            weight_alpha=layer.alpha,
            activation_alpha=float(layer.activation.alpha),
            weight_bits=layer.codebook.bits,
            activation_bits=layer.activation.codebook.bits,
        )
        for layer in network.layers.values()
        if isinstance(layer, CodedLayer) and layer.alpha is not None and layer.activation
    )


def _of_checkpoint(path: Path, bits: int | None, weights: str | None) -> Thresholds:
    from apot_export.original.checkpoint import load_checkpoint, require_finite
    from apot_export.original.published import canonical_state

    checkpoint = load_checkpoint(path, weights)
    family = families.recognise(checkpoint.keys)
    state = canonical_state(checkpoint, family)
    names = [key.removesuffix(_WEIGHT_ALPHA) for key in state if key.endswith(_WEIGHT_ALPHA)]
    widths = _widths(family, names, path, bits)
    layers = []
    for layer in names:
        pair = {name: state.get(name) for name in (f"{layer}{_WEIGHT_ALPHA}", f"{layer}.act_alpha")}
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
        quantization = widths.get(layer)
        layers.append(
            LayerThresholds(
                layer=layer,
                weight_alpha=weight_alpha,
                activation_alpha=activation_alpha,
                weight_bits=quantization.weight_bits if quantization else None,
                activation_bits=quantization.activation_bits if quantization else None,
            )
        )
    return Thresholds(source=path, family=family.name, layers=tuple(layers))


def _widths(
    family: Family, layers: Sequence[str], path: Path, bits: int | None
) -> Mapping[str, Quantization]:
    """Return what option or names state about layers; nothing where names do not suffice.

    Thresholds show without bit-widths.
    """
    from apot_export.original.resolving import resolve
    from apot_export.original.statements import LayerFacts

    # Not the grid of the names: it needs an exponent, and changes no bit-width.
    choices = Choices(bits=bits, grid="zero")
    try:
        return resolve(family, [LayerFacts(name=name) for name in layers], choices, path).layers
    except (BitWidthError, CodebookError):
        if bits is not None:
            raise
        return {}
