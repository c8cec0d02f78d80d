"""How the layers of a network quantize, part by part, and what states each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apot_export.original.choices import Choices
from apot_export.original.quantization import ASSUMPTION, FAMILY, Quantization, Stated


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """The quantization of every layer with clipping thresholds, and the sources of its parts."""

    default: Quantization
    """That of most layers to which the user gave no bits by name."""
    layers: Mapping[str, Quantization]
    """By layer; without those that the user leaves in float."""
    bits: Stated[int]
    """The default's bits of weights."""
    activation_bits: Stated[int]
    method: Stated[str]
    """The default's level set of weights."""
    activation_method: Stated[str]
    activation_sign: Stated[str]
    """The default's; "" for what the family's code does."""
    grid: Stated[str]
    first_last: Stated[str]
    """Weights of the first convolution and the last linear layer: "8bit" or "float"."""
    floats: frozenset[str]
    """Layers that the user leaves in float, first and last ones among them."""
    choices: Choices
    """The user's, completed by what names state: they rebuild the plan without names."""

    def to_json(self) -> dict[str, Any]:
        """Return bits, level set and grid of weights as manifests and results store them."""
        parts = {"bits": self.bits, "method": self.method, "grid": self.grid}
        fields: dict[str, Any] = {}
        for name, part in parts.items():
            source = "default" if part.source in (ASSUMPTION, FAMILY) else part.source
            fields |= {name: part.value, f"{name}_from": source}
        return fields
