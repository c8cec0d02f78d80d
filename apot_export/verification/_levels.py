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

from apot_export.capture import trace, value_names
from apot_export.torch_layers import QuantConv2d
from apot_export.verification._report import LevelComparison
from apot_export.verification._rounding import (
    UNIT_ROUNDOFF,
    Bounded,
    bounded_function,
    bounded_layer,
    bounded_module,
)

_SHOWN = 5


@dataclass
class _Findings:
    compared: int = 0
    differing: int = 0
    unexplained: int = 0
    values_compared: int = 0
    values_outside: int = 0
    largest_ratio: float = 0.0
    offenders: list[str] = field(default_factory=list)

    def report(self, images: int) -> LevelComparison:
        return LevelComparison(
            images=images,
            compared=self.compared,
            differing=self.differing,
            unexplained=self.unexplained,
            values_compared=self.values_compared,
            values_outside=self.values_outside,
            largest_ratio=self.largest_ratio,
            offenders=tuple(self.offenders[:_SHOWN]),
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


class _TeacherForced(fx.Interpreter):
    """Executes the original on (value, bound) pairs, forcing the export's values on its inputs."""

    def __init__(
        self, module: nn.Module, exported: Mapping[str, NDArray[Any]], findings: _Findings
    ) -> None:
        traced = trace(module)
        super().__init__(traced, garbage_collect_values=True)
        self.names = value_names(traced)
        self.exported = exported
        self.findings = findings
        self.running = ""
        """Name of the value that is being computed."""
        results = [node.args[0] for node in traced.graph.nodes if node.op == "output"]
        self.result = results[0]

    def run_node(self, n: fx.Node) -> Any:
        self.running = self.names[n.name]
        computed = super().run_node(n)
        if n.op == "placeholder":
            computed = Bounded(computed, torch.zeros_like(computed))
        if n.op == "output" or not isinstance(computed, Bounded):
            return computed
        name = "logits" if n is self.result else self.names[n.name]
        known = name in self.exported and n.op != "placeholder"
        # From here on both sides hold the export's value, which is exact by definition.
        forced = torch.from_numpy(self.exported[name]) if known else computed.value
        if known:
            self._compare_values(name, computed, forced)
        for user in n.users:
            self._compare_levels(user, computed, forced)
        return Bounded(forced, torch.zeros_like(forced)) if known else computed

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG002 - layers take one tensor
        module = self.fetch_attr(target)
        (bounded,) = args
        if isinstance(module, QuantConv2d):
            quantized = self._exported_input(module)
            return bounded_layer(module, quantized, torch.zeros_like(quantized))
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            return bounded_layer(module, bounded.value, bounded.bound)
        return bounded_module(module, bounded)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def call(plain: tuple[Any, ...]) -> Any:
            return super(_TeacherForced, self).call_function(target, plain, kwargs)

        return bounded_function(target.__name__, args, call)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def call(plain: tuple[Any, ...]) -> Any:
            return super(_TeacherForced, self).call_method(target, plain, kwargs)

        return bounded_function(target, args, call)

    def _exported_input(self, module: QuantConv2d) -> torch.Tensor:
        """Return the float input that the original's quantizer maps onto the export's levels."""
        levels = torch.from_numpy(self.exported[f"{self.running}.levels"].astype(np.float32))
        return levels * (module.act_alpha / module.input_denominator())

    def _compare_values(self, name: str, computed: Bounded, forced: torch.Tensor) -> None:
        difference = (computed.value - forced).abs().double()
        # Both sides round: each may be off by the bound.
        allowed = 2 * computed.bound.double()
        outside = ~(difference <= allowed)
        self.findings.values_compared += difference.numel()
        ratios = difference / allowed.clamp(min=torch.finfo(torch.float32).tiny)
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
        if user.op != "call_module":
            return
        module = self.fetch_attr(str(user.target))
        if not isinstance(module, QuantConv2d):
            return
        step = float(module.act_alpha) / module.activation_denominator()
        levels = (module.quantized_input(computed.value).double() / step).round()
        exported = torch.from_numpy(
            self.exported[f"{self.names[user.name]}.levels"].astype(np.float64)
        )
        differing = levels != exported
        # The quantizer itself rounds its scaled input a few times.
        slack = 2 * computed.bound.double() + 8 * UNIT_ROUNDOFF * float(module.act_alpha)
        ends = [computed.value.double(), forced.double()]
        explained = _within_rounding(module, exported, ends, slack)
        unexplained = differing & ~explained
        self.findings.compared += differing.numel()
        self.findings.differing += int(differing.sum())
        if unexplained.any():
            self.findings.unexplained += int(unexplained.sum())
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
