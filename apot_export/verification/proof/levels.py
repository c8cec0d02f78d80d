"""Explained differences: both sides computed value by value from the same inputs.

The original is executed node by node. Before each node its inputs are replaced by what ONNX Runtime
computed, so a difference of one value never reaches the next. Each float value carries a bound on
what float32 rounding can do to it; a level that differs is *explained* when a decision point of the
quantizer lies within that bound, and anything else is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from apot_export.network.rounding import UNIT_ROUNDOFF
from apot_export.original.quantized_layers import QuantConv2d
from apot_export.original.tracing import trace
from apot_export.verification.proof.decisions import Decisions, decisions_of
from apot_export.verification.proof.forced import Forced, exact
from apot_export.verification.proof.rounding import Bounded
from apot_export.verification.report import DISTANCE_EDGES, LayerLevels, LevelComparison

_SHOWN = 5


@dataclass
class _LayerFindings:
    """Counts of one quantized layer."""

    decisions: Decisions
    compared: int = 0
    differing: int = 0
    unexplained: int = 0
    counts: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(len(DISTANCE_EDGES) + 1, dtype=np.int64)
    )
    largest: float = 0.0

    def add(self, distances: NDArray[np.float64], explained: NDArray[np.bool_]) -> None:
        """Count differing levels by their distance to the decision point, in bounds."""
        # The verdict knows both sides' inputs, so it has the last word at a distance of 1.
        decided = np.where(
            explained, np.minimum(distances, np.nextafter(1, 0)), np.maximum(distances, 1)
        )
        bins = np.searchsorted(DISTANCE_EDGES, decided, side="right")
        self.counts += np.bincount(bins, minlength=len(self.counts))
        self.largest = max(self.largest, float(decided.max(initial=0)))

    def report(self, layer: str) -> LayerLevels:
        return LayerLevels(
            layer=layer,
            compared=self.compared,
            differing=self.differing,
            unexplained=self.unexplained,
            distances=tuple(self.counts.tolist()),
            largest_distance=self.largest,
        )


@dataclass
class _Findings:
    layers: dict[str, _LayerFindings] = field(default_factory=dict)
    values_compared: int = 0
    values_outside: int = 0
    largest_ratio: float = 0.0
    offenders: list[str] = field(default_factory=list)

    def report(self, images: int) -> LevelComparison:
        return LevelComparison(
            images=images,
            compared=sum(layer.compared for layer in self.layers.values()),
            differing=sum(layer.differing for layer in self.layers.values()),
            unexplained=sum(layer.unexplained for layer in self.layers.values()),
            values_compared=self.values_compared,
            values_outside=self.values_outside,
            largest_ratio=self.largest_ratio,
            offenders=tuple(self.offenders[:_SHOWN]),
            layers=tuple(layer.report(name) for name, layer in self.layers.items()),
        )


def compare_levels(
    module: nn.Module, images: NDArray[np.float32], exported: Mapping[str, NDArray[Any]]
) -> LevelComparison:
    """Compare an original with the values that its export computed.

    Args:
        module: The original, on the CPU.
        images: float32 [N, C, H, W].
        exported: Every value of the ONNX graph on these images, by name; the logits too.
    """
    findings = _Findings()
    with torch.no_grad():
        _TeacherForced(module, exported, findings).run(torch.from_numpy(images))
    return findings.report(len(images))


class _TeacherForced(Forced):
    """Executes the original, forcing the export's values on its inputs, and compares."""

    def __init__(
        self, module: nn.Module, exported: Mapping[str, NDArray[Any]], findings: _Findings
    ) -> None:
        super().__init__(trace(module), exported, garbage_collect_values=True)
        self.findings = findings

    def run_node(self, n: fx.Node) -> Any:
        computed = super().run_node(n)
        if n.op == "output" or not isinstance(computed, Bounded):
            return computed
        name = self.name_of(n)
        known = n.op != "placeholder" and self._known(name, tuple(computed.value.shape))
        # From here on both sides hold the export's value, which is exact by definition.
        forced = torch.from_numpy(self.exported[name]) if known else computed.value
        if known:
            self._compare_values(name, computed, forced)
        for user in n.users:
            self._compare_levels(user, computed, forced)
        return exact(forced) if known else computed

    def _known(self, name: str, shape: tuple[int, ...]) -> bool:
        """Tell whether the export has a value; one of another shape is outside all bounds."""
        value = self.exported.get(name)
        if value is not None and value.shape != shape:
            self.findings.values_outside += value.size
            self.findings.offenders.append(
                f"{name}: shape {list(value.shape)} instead of {list(shape)}"
            )
            return False
        return value is not None

    def _compare_values(self, name: str, computed: Bounded, forced: torch.Tensor) -> None:
        difference = (computed.value - forced).abs().double()
        # Both sides round: each may be off by the bound.
        allowed = 2 * computed.bound.double()
        outside = ~(difference <= allowed)
        self.findings.values_compared += difference.numel()
        # What is no number is further away than anything.
        ratios = difference / allowed.clamp(min=torch.finfo(torch.float32).tiny)
        ratios = ratios.nan_to_num(nan=torch.inf, posinf=torch.inf)
        self.findings.largest_ratio = max(self.findings.largest_ratio, float(ratios.max()))
        if outside.any():
            self.findings.values_outside += int(outside.sum())
            place = tuple(int(axis[0]) for axis in torch.nonzero(outside, as_tuple=True))
            self.findings.offenders.append(
                f"{name}: {int(outside.sum())} of {outside.numel()} values further apart than "
                f"rounding allows, first at {list(place)}: {float(forced[place]):.9g} instead of "
                f"{float(computed.value[place]):.9g} +- {float(allowed[place]):.3g}"
            )

    def _compare_levels(self, user: fx.Node, computed: Bounded, forced: torch.Tensor) -> None:
        module = self.module_of(user)
        if not isinstance(module, QuantConv2d):
            return
        inner = f"{self.names[user.name]}.levels"
        if not self._known(inner, tuple(computed.value.shape)):
            self.findings.values_outside += inner not in self.exported
            self.findings.offenders.append(f"{inner}: not in the ONNX model as it should be")
            return
        step = float(module.act_alpha) / module.activation_denominator()
        levels = (module.quantized_input(computed.value).double() / step).round()
        exported = torch.from_numpy(self.exported[inner].astype(np.float64))
        differing = levels != exported
        # The quantizer itself rounds its scaled input a few times.
        slack = 2 * computed.bound.double() + 8 * UNIT_ROUNDOFF * float(module.act_alpha)
        ends = [computed.value.double(), forced.double()]
        explained = _within_rounding(module, exported, ends, slack)
        unexplained = differing & ~explained
        name = str(user.target)
        if name not in self.findings.layers:
            self.findings.layers[name] = _LayerFindings(decisions_of(module))
        layer = self.findings.layers[name]
        layer.compared += differing.numel()
        layer.differing += int(differing.sum())
        layer.unexplained += int(unexplained.sum())
        if differing.any():
            distances = [
                layer.decisions.distances(end[differing].numpy(), exported[differing].numpy())
                for end in ends
            ]
            apart = (ends[0] - ends[1]).abs()[differing].numpy()
            nearest = np.maximum(np.minimum(*distances), apart) / slack[differing].numpy()
            layer.add(nearest, explained[differing].numpy())
        if unexplained.any():
            place = tuple(int(axis[0]) for axis in torch.nonzero(unexplained, as_tuple=True))
            self.findings.offenders.append(
                f"{user.target}: {int(unexplained.sum())} of {unexplained.numel()} levels differ "
                f"without a decision point nearby, first at {list(place)}: "
                f"{int(exported[place])} instead of {int(levels[place])}"
            )


def _within_rounding(
    module: QuantConv2d, exported: torch.Tensor, ends: list[torch.Tensor], slack: torch.Tensor
) -> torch.Tensor:
    """Tell where a level is one that the original gives between two values, `slack` around them."""
    step = float(module.act_alpha) / module.activation_denominator()
    low = torch.minimum(*ends) - slack
    high = torch.maximum(*ends) + slack
    lowest, highest = (
        (module.quantized_input(end.float()).double() / step).round() for end in (low, high)
    )
    close = (ends[0] - ends[1]).abs() <= slack
    return close & (lowest <= exported) & (exported <= highest)
