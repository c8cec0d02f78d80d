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
from torch.nn import functional

from apot_export.capture import trace, value_names
from apot_export.torch_layers import QuantConv2d, QuantizedLayer
from apot_export.verification._report import LevelComparison

UNIT_ROUNDOFF = 2.0**-24
_PRODUCT_ROUNDINGS = 12
"""Roundings of one product: both factors' own (levels times thresholds), product and scale."""
_SHOWN = 5


@dataclass(frozen=True)
class _Bounded:
    """A float value with the largest error that rounding can have given it."""

    value: torch.Tensor
    bound: torch.Tensor


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
        results = [node.args[0] for node in traced.graph.nodes if node.op == "output"]
        self.result = results[0]

    def run_node(self, n: fx.Node) -> Any:
        computed = super().run_node(n)
        if n.op == "output":
            return computed
        if n.op == "placeholder":
            computed = _Bounded(computed, torch.zeros_like(computed))
        name = "logits" if n is self.result else self.names[n.name]
        known = name in self.exported and n.op != "placeholder"
        # From here on both sides hold the export's value, which is exact by definition.
        forced = torch.from_numpy(self.exported[name]) if known else computed.value
        if known:
            self._compare_values(name, computed, forced)
        for user in n.users:
            self._compare_levels(user, computed, forced)
        return _Bounded(forced, torch.zeros_like(forced)) if known else computed

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG002 - layers take one tensor
        module = self.fetch_attr(target)
        (bounded,) = args
        if isinstance(module, QuantConv2d):
            quantized = self._exported_input(target, module)
            return _convolution(module, quantized, torch.zeros_like(quantized))
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            return _convolution(module, bounded.value, bounded.bound)
        return _bounded_module(module, bounded)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _bounded_function(
            args, lambda plain: super(_TeacherForced, self).call_function(target, plain, kwargs)
        )

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _bounded_function(
            args, lambda plain: super(_TeacherForced, self).call_method(target, plain, kwargs)
        )

    def _exported_input(self, target: str, module: QuantConv2d) -> torch.Tensor:
        """Return the float input that the original's quantizer maps onto the export's levels."""
        levels = torch.from_numpy(self.exported[f"{target}.levels"].astype(np.float32))
        return levels * (module.act_alpha / module.input_denominator())

    def _compare_values(self, name: str, computed: _Bounded, forced: torch.Tensor) -> None:
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

    def _compare_levels(self, user: fx.Node, computed: _Bounded, forced: torch.Tensor) -> None:
        if user.op != "call_module":
            return
        module = self.fetch_attr(str(user.target))
        if not isinstance(module, QuantConv2d):
            return
        step = float(module.act_alpha) / module.activation_denominator()
        levels = (module.quantized_input(computed.value).double() / step).round()
        exported = torch.from_numpy(self.exported[f"{user.target}.levels"].astype(np.float64))
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


# --- rounding bounds ------------------------------------------------------------------------------


def _convolution(
    module: nn.Conv2d | nn.Linear, value: torch.Tensor, bound: torch.Tensor
) -> _Bounded:
    """Run a weighted layer; its bound grows with the sum of absolute products.

    Any order of K additions errs by at most (K - 1) unit roundoffs of that sum; errors of real
    summations grow with its square root, and this takes four times that, so that a bound never
    hides what is not rounding.
    """
    weight = module.quantized_weight() if isinstance(module, QuantizedLayer) else module.weight
    taps = weight[0].numel()
    roundings = min(taps, 4 * taps**0.5) + _PRODUCT_ROUNDINGS
    if isinstance(module, QuantConv2d):
        quantized = module.quantized_input(value)
        result, magnitude = module(value), _linear(module, quantized.abs(), weight.abs())
        carried = torch.zeros_like(magnitude)
    else:
        result, magnitude = module(value), _linear(module, value.abs(), weight.abs())
        carried = _linear(module, bound, weight.abs())
    if module.bias is not None:
        axes = (1, -1, *[1] * (result.ndim - 2))
        magnitude = magnitude + module.bias.abs().reshape(axes)
    return _Bounded(result, carried + roundings * UNIT_ROUNDOFF * magnitude)


def _linear(
    module: nn.Conv2d | nn.Linear, value: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    if isinstance(module, nn.Conv2d):
        return functional.conv2d(
            value, weight, None, module.stride, module.padding, module.dilation, module.groups
        )
    return functional.linear(value, weight)


def _bounded_module(module: nn.Module, operand: _Bounded) -> _Bounded:
    value, bound = operand.value, operand.bound
    result = module(value)
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        mean, variance = module.running_mean, module.running_var
        if mean is None or variance is None:
            raise TypeError("a captured batch-norm has running statistics")
        scale = 1 / (variance + module.eps).sqrt()
        shift = (mean * scale).abs()
        if module.affine:
            scale = scale * module.weight
            shift = (mean * scale).abs() + module.bias.abs()
        axes = (1, -1, *[1] * (value.ndim - 2))
        magnitude = value.abs() * scale.abs().reshape(axes) + shift.reshape(axes)
        return _Bounded(result, bound * scale.abs().reshape(axes) + 8 * UNIT_ROUNDOFF * magnitude)
    if isinstance(module, (nn.ReLU, nn.ReLU6, nn.Dropout, nn.Identity)):
        return _Bounded(result, bound)
    if isinstance(module, nn.Flatten):
        return _Bounded(result, module(bound))
    if isinstance(module, nn.MaxPool2d):
        return _Bounded(result, module(bound))
    if isinstance(module, (nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
        window = value.shape[-1] * value.shape[-2] / max(1, result.shape[-1] * result.shape[-2])
        rounding = (4 * window**0.5 + 2) * UNIT_ROUNDOFF * module(value.abs())
        return _Bounded(result, module(bound) + rounding)
    raise TypeError(f"no rounding bound for {type(module).__name__}")


def _bounded_function(args: tuple[Any, ...], call: Any) -> _Bounded:
    operands = [argument for argument in args if isinstance(argument, _Bounded)]
    plain = tuple(a.value.clone() if isinstance(a, _Bounded) else a for a in args)
    result = call(plain)
    if len(operands) == 2:  # noqa: PLR2004 - the only function of two tensors is addition
        rounding = UNIT_ROUNDOFF * result.abs()
        return _Bounded(result, operands[0].bound + operands[1].bound + rounding)
    if result.shape == operands[0].bound.shape:
        return _Bounded(result, operands[0].bound)
    return _Bounded(result, operands[0].bound.reshape(result.shape))
