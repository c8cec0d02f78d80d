"""User options about how a checkpoint was trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from apot_export.arguments import require_fields
from apot_export.original.quantization import AUTO, FULL_PRECISION_BITS, LayerBits


@dataclass(frozen=True, kw_only=True)
class Choices:
    """User options; None means: infer it from the network, names and the family."""

    weights: str | None = None
    """Which of several sets of weights the checkpoint's are, as "state_dict_ema"."""
    bits: int | None = None
    """Nominal bits of weights, and of activations unless they are given."""
    activation_bits: int | None = None
    method: str | None = None
    """Level set of weights."""
    activation_method: str | None = None
    """Level set of activations."""
    activation_sign: str | None = None
    """Levels of activations below 0: "signed" as above 0, "unsigned" none."""
    grid: str | None = None
    z: int | None = None
    legacy_divisor: bool = False
    normalize_weights: bool = True
    first_last: str | None = None
    """Weights of the first convolution and the last linear layer: "8bit" or "float"."""
    family: str | None = None
    """Where a checkpoint's keys are those of several families."""
    layer_bits: tuple[LayerBits, ...] = ()
    alpha_terms: int = 0
    """Powers of two that each coordinate of multi-bit weights becomes the sum of; 0: floats."""
    unsigned_zeros: bool = False
    """Make every weight of level 0 a +0, which no result of the network depends on."""
    power_of_two_layers: str = AUTO
    """"auto": store plain layers as codes whose weights are sums of powers of two already; "off":
    leave them in float."""

    def __post_init__(self) -> None:
        require_fields(self)

    def to_json(self) -> dict[str, Any]:
        """Return the form that manifests store: younger options only where there was a choice."""
        content = dataclasses.asdict(self)
        younger = {"weights": None, "activation_sign": None, "power_of_two_layers": AUTO}
        return {k: v for k, v in content.items() if k not in younger or v != younger[k]}

    def non_default(self) -> dict[str, Any]:
        """Return the options that differ from those of a full-precision network."""
        plain = Choices(
            bits=FULL_PRECISION_BITS,
            activation_bits=self.bits,
            method="apot",
            activation_method=self.method,
            grid="zero",
        )
        defaults = plain.to_json()
        return {key: value for key, value in self.to_json().items() if value != defaults.get(key)}

    @staticmethod
    def of_json(content: Mapping[str, Any]) -> Choices:
        """Read what `to_json` returned; TypeError or KeyError for anything else."""
        layer_bits = tuple(LayerBits(**entry) for entry in content["layer_bits"])
        return Choices(**{**content, "layer_bits": layer_bits})


class Stated(TypedDict, total=False):
    """The fields of `Choices`, as named arguments of `convert`, `verify` and `inspect`."""

    weights: str | None
    bits: int | None
    activation_bits: int | None
    method: str | None
    activation_method: str | None
    activation_sign: str | None
    grid: str | None
    z: int | None
    legacy_divisor: bool
    normalize_weights: bool
    first_last: str | None
    family: str | None
    layer_bits: tuple[LayerBits, ...]
    alpha_terms: int
    unsigned_zeros: bool
    power_of_two_layers: str
