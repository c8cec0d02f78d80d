"""Products of wide integers: inputs and weights in pieces whose sums of products float32 holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from apot_export.artifacts.onnx_model._exact import (
    DIGIT,
    ExactBuilder,
    Part,
    Parts,
    balanced_digits,
)
from apot_export.errors import IntegerError
from apot_export.integer.lowering import dyadic_coordinates
from apot_export.network import CodedLayer, PlaneLayer
from apot_export.network.bounds import FLOAT32_EXACT


@dataclass(kw_only=True)
class PieceBuilder(ExactBuilder):
    """A graph with weights as integers in float32."""

    def _pieces(self, parts: Parts, weight: int) -> Parts:
        """Return an integer as pieces whose sums with such absolute weights fit float32."""
        if len(parts) == 1 and parts[0].largest * weight < FLOAT32_EXACT:
            return parts
        bits = _piece_bits(weight)
        return self._digits(parts, bits if len(parts) == 1 else min(bits, DIGIT), bits)

    def _weight_pieces(self, name: str, read: int) -> Parts:
        """Return a layer's weights as pieces for an input of such a magnitude.

        `largest` of each is the most that its absolute weights of one output add up to.
        """
        layer = self.network.layers[name]
        if isinstance(layer, CodedLayer):
            sums = [_absolute_sum(layer.levels())]
            if _piece_bits(sums[0]):
                return (Part(tensor=self._float_levels(layer), low=-sums[0], high=sums[0]),)
            raise self._too_large(sums[0])
        assert isinstance(layer, PlaneLayer)  # Integer networks have no float weights.
        coordinates, _ = dyadic_coordinates(layer)
        choices = []
        for bits in range(2, int(np.abs(coordinates).max(initial=1)).bit_length() + 2):
            digits = [d.astype(np.float32) for d in balanced_digits(coordinates.tolist(), bits)]
            sums = [_absolute_sum(layer.planes.scaled_by(digit)) for digit in digits]
            kept = _piece_bits(max(sums))
            if kept:
                whole = read * max(sums) < FLOAT32_EXACT
                pieces = 1 if whole else -(-read.bit_length() // kept)
                choices.append((len(digits) * pieces, bits, digits, sums))
        if not choices:
            raise self._too_large(max(sums))
        _, bits, digits, sums = min(choices, key=lambda choice: choice[:2])
        return tuple(
            Part(tensor=self._float_planes(layer, digit, k), low=-s, high=s, shift=bits * k)
            for k, (digit, s) in enumerate(zip(digits, sums, strict=True))
        )

    def _too_large(self, total: int) -> IntegerError:
        return IntegerError(
            "A layer has too many weights, or too large ones, for exact sums.",
            where=self.place,
            expected=f"absolute weights that add up to less than {FLOAT32_EXACT // 2}",
            got=str(total),
            fix="leave out --integer",
        )

    def _float_levels(self, layer: CodedLayer) -> str:
        """Add what makes a coded layer's integer weights float32."""
        levels = self._decoded(layer)
        if self.stores_floats:
            return levels
        floats = f"{layer.name}.float_weights"
        if all(floats not in node.output for node in self.nodes):
            self._standard("Cast", [levels], floats, to=TensorProto.FLOAT)
        return floats

    def _float_planes(self, layer: PlaneLayer, digit: NDArray[np.float32], number: int) -> str:
        """Add sign vectors times one digit of their coordinates."""
        weights = f"{layer.name}.digit{number}"
        if self.stores_floats:
            return self._initializer(weights, layer.planes.scaled_by(digit))
        if all(weights not in node.output for node in self.nodes):
            coordinates = self._initializer(f"{weights}.coordinates", digit)
            self._decode_planes(layer, coordinates, weights)
        return weights


def _piece_bits(weight: int) -> int:
    """Return the most bits of pieces whose sums with such absolute weights fit float32."""
    return max(0, ((FLOAT32_EXACT - 1) // max(weight, 1)).bit_length() - 1)


def _absolute_sum(weights: NDArray[Any]) -> int:
    """Return the largest sum of absolute weights of an output."""
    rows = np.abs(weights.reshape(weights.shape[0], -1).astype(np.int64))
    return max(1, int(rows.sum(axis=1).max(initial=0)))
