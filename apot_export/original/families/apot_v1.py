"""APoT as first published: thresholds `weight_quant.wgt_alpha` and `act_alpha` per convolution."""

from __future__ import annotations

from collections.abc import Iterable

from apot_export.original.families import _level_sets
from apot_export.original.families._protocol import ActivationRule, WeightRule
from apot_export.original.quantization import Quantization

_WEIGHT_ALPHA = ".weight_quant.wgt_alpha"


class ApotV1:
    """The CIFAR-10 code, and the ImageNet code before May 2020."""

    name = "apot-v1"
    methods = ("apot", "pot", "uniform")
    has_eight_bit_layers = True

    def bit_widths(self, method: str) -> tuple[int, ...]:
        """Return the nominal bit-widths that the family offers for a level set."""
        return _level_sets.bit_widths(method)

    def recognises(self, keys: Iterable[str]) -> bool:
        """Tell whether any key is a threshold under `weight_quant`."""
        return any(key.endswith(_WEIGHT_ALPHA) for key in keys)

    def canonical_key(self, key: str) -> str | None:
        """Rename `weight_quant.wgt_alpha` to `weight_alpha`."""
        if key.endswith(_WEIGHT_ALPHA):
            return key[: -len(_WEIGHT_ALPHA)] + ".weight_alpha"
        return key

    def weight_rule(self, quantization: Quantization) -> WeightRule:
        """Return the projection of weights."""
        return _level_sets.weight_rule(quantization)

    def activation_rule(self, quantization: Quantization) -> ActivationRule:
        """Return the projection of activations."""
        return _level_sets.activation_rule(quantization, passes_negative_inputs=True)

    def alpha_line(self, weight_alpha: float, activation_alpha: float) -> str:
        """Format thresholds as the CIFAR-10 training log does: rounded to three decimals."""
        return (
            f"clipping threshold weight alpha: {round(weight_alpha, 3):2f}, "
            f"activation alpha: {round(activation_alpha, 3):2f}"
        )
