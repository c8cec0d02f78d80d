"""Explained differences: both sides computed value by value from the same inputs.

The original is executed node by node. Before each node its inputs are replaced by what ONNX Runtime
computed, so a difference of one value never reaches the next. Each float value carries a bound on
what float32 rounding can do to it; a level that differs is *explained* when a decision point of the
quantizer lies within that bound, and anything else is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from apot_export.network.bounds import UNIT_ROUNDOFF
from apot_export.network.comparison import LOGITS, Difference, first_place
from apot_export.original.quantized_layers import ThresholdLayer
from apot_export.original.tracing import result_of, trace, value_names
from apot_export.verification.proof.decisions import distances, levels_of
from apot_export.verification.proof.rounding import (
    Bounded,
    bounded_function,
    bounded_layer,
    bounded_module,
    exact,
)
from apot_export.verification.report import DISTANCE_EDGES, LayerLevels, LevelComparison

_SHOWN = 5
_QUANTIZER_ROUNDINGS = 8
"""Roundings of an activation on its way to a level, in units of the threshold's roundoff."""


def compare_levels(
    module: nn.Module, images: NDArray[np.float32], exported: Mapping[str, NDArray[Any]]
) -> LevelComparison:
    """Compare an original with the values that its export computed.

    Args:
        module: The original, on the CPU.
        images: float32 [N, C, H, W].
        exported: Every value of the ONNX graph on these images, by name; the logits too.
    """
    return ForcedWalk(module, images.shape[1:], exported).compare(images)


class ForcedWalk(fx.Interpreter):
    """Executes the original on (value, bound) pairs, forcing the export's values on its inputs.

    Attributes:
        found: Differences beyond rounding, in order of computation.
        originals: The original's numbers at the watched places, by value.
    """

    def __init__(
        self,
        module: nn.Module,
        input_shape: Sequence[int],
        exported: Mapping[str, NDArray[Any]],
        watched: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
        whose: str = "ONNX model",
    ) -> None:
        """Prepare a walk.

        Args:
            module: The original, on the CPU.
            input_shape: One image: (channels, height, width).
            exported: Every value of the ONNX graph on the images, by name; the logits too.
            watched: Indices into values whose original numbers are kept, by value.
            whose: What computed the values, in words.
        """
        traced = trace(module, input_shape)
        super().__init__(traced, garbage_collect_values=True)
        self.exported, self.whose = exported, whose
        self.names = value_names(traced)
        self.result = result_of(traced)
        self.running = ""
        """Name of the value that is being computed."""
        self.layers: dict[str, LayerLevels] = {}
        self.values_compared = 0
        self.values_outside = 0
        self.largest_ratio = 0.0
        self.found: list[Difference] = []
        self.watched = watched
        self.originals: dict[str, float] = {}

    def compare(self, images: NDArray[np.float32]) -> LevelComparison:
        """Run the original on images, float32 [N, C, H, W], and compare every value."""
        with torch.no_grad():
            self.run(torch.from_numpy(images))
        layers = self.layers.values()
        return LevelComparison(
            images=len(images),
            compared=sum(layer.compared for layer in layers),
            differing=sum(layer.differing for layer in layers),
            unexplained=sum(layer.unexplained for layer in layers),
            values_compared=self.values_compared,
            values_outside=self.values_outside,
            largest_ratio=self.largest_ratio,
            offenders=tuple(
                f"{one.value.removesuffix('.levels')}: {one.says}" for one in self.found[:_SHOWN]
            ),
            layers=tuple(layers),
        )

    # --- execution --------------------------------------------------------------------------------

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, compare its value, and pass on the export's."""
        self.running = self.names[n.name]
        computed = super().run_node(n)
        forced = None
        if n.op == "placeholder":
            computed = exact(computed)
        elif n.op == "output" or not isinstance(computed, Bounded):
            return computed
        else:
            is_result = n is self.result
            layer = str(n.target) if n.op == "call_module" else self.running
            forced = self._compare_values(LOGITS if is_result else self.running, layer, computed)
        for user in n.users:
            self._compare_levels(user, computed, computed.value if forced is None else forced)
        # From here on both sides hold the export's value, which is exact by definition.
        return computed if forced is None else exact(forced)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG002 - layers take one tensor
        """Run a layer; a quantized one on the export's levels, where they are known."""
        module = self.fetch_attr(target)
        (operand,) = args
        if isinstance(module, ThresholdLayer) and module.quantizes_input:
            levels = self.exported.get(f"{self.running}.levels")
            if levels is not None and levels.shape == tuple(operand.value.shape):
                step = module.act_alpha / module.input_denominator()
                operand = exact(torch.from_numpy(levels.astype(np.float32)) * step)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            return bounded_layer(module, operand)
        return bounded_module(module, operand)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function on bounded arguments."""
        run = super().call_function
        return bounded_function(target, args, lambda plain: run(target, plain, kwargs))

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a method on bounded arguments."""
        run = super().call_method
        return bounded_function(target, args, lambda plain: run(target, plain, kwargs))

    # --- comparison -------------------------------------------------------------------------------

    def _known(self, name: str, layer: str, kind: str, shape: tuple[int, ...]) -> bool:
        """Tell whether the export has a value; one of another shape is outside all bounds."""
        value = self.exported.get(name)
        if value is None or value.shape == shape:
            return value is not None
        self.values_outside += value.size
        says = f"shape {list(value.shape)} instead of {list(shape)} in the {self.whose}"
        self.found.append(Difference(value=name, layer=layer, kind=kind, says=says))
        return False

    def _watch(self, name: str, original: torch.Tensor) -> None:
        if name in self.watched:
            self.originals[name] = float(original[self.watched[name]])

    def _compare_values(self, name: str, layer: str, computed: Bounded) -> torch.Tensor | None:
        """Compare a float value; return the export's, None where it has none."""
        if not self._known(name, layer, "values", tuple(computed.value.shape)):
            return None
        self._watch(name, computed.value)
        forced = torch.from_numpy(self.exported[name])
        difference = (computed.value - forced).abs().double()
        # Both sides round: each may be off by the bound.
        allowed = 2 * computed.bound.double()
        outside = ~(difference <= allowed)
        self.values_compared += difference.numel()
        # What is no number is further away than anything.
        ratios = difference / allowed.clamp(min=torch.finfo(torch.float32).tiny)
        ratios = ratios.nan_to_num(nan=torch.inf, posinf=torch.inf)
        self.largest_ratio = max(self.largest_ratio, float(ratios.max()))
        if outside.any():
            self.values_outside += int(outside.sum())
            place = first_place(outside.numpy())
            got, expected = float(forced[place]), float(computed.value[place])
            self.found.append(
                Difference(
                    value=name,
                    layer=layer,
                    kind="values",
                    says=f"{int(outside.sum())} of {outside.numel()} values further apart than "
                    f"rounding allows, first at {list(place)}: {got:.9g} instead of "
                    f"{expected:.9g} +- {float(allowed[place]):.3g} in the {self.whose}",
                    place=place,
                    original=expected,
                    export=got,
                )
            )
        return forced

    def _compare_levels(self, user: fx.Node, computed: Bounded, forced: torch.Tensor) -> None:
        """Compare the levels that a quantized layer makes of a value."""
        module = self.fetch_attr(str(user.target)) if user.op == "call_module" else None
        if not (isinstance(module, ThresholdLayer) and module.quantizes_input):
            return
        layer, name = str(user.target), f"{self.names[user.name]}.levels"
        if not self._known(name, layer, "levels", tuple(computed.value.shape)):
            if name not in self.exported:
                self.values_outside += 1
                says = f"not in the {self.whose} as it should be"
                self.found.append(Difference(value=name, layer=layer, kind="levels", says=says))
            return
        levels = levels_of(module, computed.value)
        self._watch(name, levels)
        exported = torch.from_numpy(self.exported[name].astype(np.float64))
        differing = levels != exported
        # The quantizer itself rounds its scaled input a few times.
        slack = 2 * computed.bound.double()
        scaled = (-computed.value.double()).clamp(min=float(module.act_alpha))
        slack = slack + _QUANTIZER_ROUNDINGS * UNIT_ROUNDOFF * scaled
        ends = [computed.value.double(), forced.double()]
        explained = _within_rounding(module, exported, ends, slack)
        unexplained = differing & ~explained
        ratios = np.zeros(0)
        if differing.any():
            found = exported[differing].numpy()
            away = [distances(module, end[differing].numpy(), found) for end in ends]
            apart = (ends[0] - ends[1]).abs()[differing].numpy()
            ratios = np.maximum(np.minimum(*away), apart) / slack[differing].numpy()
        self._count(layer, differing, unexplained, ratios)
        if unexplained.any():
            place = first_place(unexplained.numpy())
            self.found.append(
                Difference(
                    value=name,
                    layer=layer,
                    kind="levels",
                    says=f"{int(unexplained.sum())} of {unexplained.numel()} levels differ without "
                    f"a decision point nearby, first at {list(place)}: {int(exported[place])} "
                    f"instead of {int(levels[place])} in the {self.whose}",
                    place=place,
                    original=float(levels[place]),
                    export=float(exported[place]),
                )
            )

    def _count(
        self,
        layer: str,
        differing: torch.Tensor,
        unexplained: torch.Tensor,
        ratios: NDArray[np.float64],
    ) -> None:
        """Count levels, those that differ by their distance to the decision point, in bounds."""
        # The verdict knows both sides' inputs, so it has the last word at a distance of 1.
        beyond = unexplained[differing].numpy()
        decided = np.where(beyond, np.maximum(ratios, 1), np.minimum(ratios, np.nextafter(1, 0)))
        bins = np.searchsorted(DISTANCE_EDGES, decided, side="right")
        counts = np.bincount(bins, minlength=len(DISTANCE_EDGES) + 1)
        before = self.layers.get(layer, LayerLevels(layer=layer))
        self.layers[layer] = LayerLevels(
            layer=layer,
            compared=before.compared + differing.numel(),
            differing=before.differing + int(differing.sum()),
            unexplained=before.unexplained + int(unexplained.sum()),
            distances=tuple((before.distances + counts).tolist()),
            largest_distance=max(before.largest_distance, float(decided.max(initial=0))),
        )


def _within_rounding(
    module: ThresholdLayer, exported: torch.Tensor, ends: list[torch.Tensor], slack: torch.Tensor
) -> torch.Tensor:
    """Tell where a level is one that the original gives between two values, `slack` around them."""
    lowest = levels_of(module, (torch.minimum(*ends) - slack).float())
    highest = levels_of(module, (torch.maximum(*ends) + slack).float())
    close = (ends[0] - ends[1]).abs() <= slack
    return close & (lowest <= exported) & (exported <= highest)
