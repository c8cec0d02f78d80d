"""The original, value by value, from the export's own values.

Before each node its inputs are replaced by what the export computed there, so that a difference of
one value never reaches the next. Each float value carries a bound on what float32 rounding can do
to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from apot_export.network.rounding import UNIT_ROUNDOFF
from apot_export.original.quantized_layers import QuantConv2d
from apot_export.original.tracing import trace, value_names
from apot_export.verification.proof.rounding import (
    Bounded,
    bounded_function,
    bounded_layer,
    bounded_module,
)

LOGITS = "logits"
"""What the ONNX model calls the network's output."""
_QUANTIZER_ROUNDINGS = 8
"""Roundings of an activation on its way to a level, in units of the threshold's roundoff."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """A value of the original, computed from the export's values."""

    name: str
    """What the export calls the value, if it has it."""
    inner: str
    """Prefix of what the export calls the values inside a layer: its levels and sums."""
    module: nn.Module | None
    """The module that computed it; None for a function."""
    path: str
    """That module's dotted name; empty for a function."""
    operand: Bounded
    """Its first input."""
    computed: Bounded
    source: Step | None
    """The step that computed the first input, where the export has no value of that name."""
    norm: nn.Module | None
    """The batch-norm that alone reads the value, if there is one."""
    result: str
    """What the export calls the batch-norm's value; the value's own name without one."""


def forced_steps(
    module: nn.Module, images: NDArray[np.float32], exported: Mapping[str, NDArray[Any]]
) -> Iterator[Step]:
    """Yield every value of the original in order of computation.

    Args:
        module: The original, on the CPU.
        images: float32 [N, C, H, W].
        exported: Every value of the ONNX graph on these images, by name; the logits too.
    """
    traced = trace(module)
    interpreter = Forced(traced, exported)
    interpreter.args_iter = iter([torch.from_numpy(images)])
    steps: dict[fx.Node, Step] = {}
    for node in traced.graph.nodes:
        computed = interpreter.run_node(node)
        interpreter.env[node] = computed
        if node.op in ("placeholder", "output") or not isinstance(computed, Bounded):
            continue
        source = node.all_input_nodes[0]
        norm = interpreter.norm_after(node)
        step = Step(
            name=interpreter.name_of(node),
            inner=interpreter.names[node.name],
            module=interpreter.module_of(node),
            path=str(node.target) if node.op == "call_module" else "",
            operand=interpreter.env[source],
            computed=computed,
            source=None if interpreter.name_of(source) in exported else steps.get(source),
            norm=None if norm is None else interpreter.module_of(norm),
            result=interpreter.name_of(norm or node),
        )
        yield step
        steps[node] = step
        value = exported.get(step.name)
        if value is not None and value.shape == tuple(computed.value.shape):
            # From here on both sides hold the export's value, which is exact by definition.
            interpreter.env[node] = exact(torch.from_numpy(value.astype(np.float32)))


def exact(value: torch.Tensor) -> Bounded:
    """Return a value without rounding error."""
    return Bounded(value, torch.zeros_like(value))


def dequantized(module: QuantConv2d, levels: NDArray[Any]) -> torch.Tensor:
    """Return the float input that the original's quantizer maps onto integer levels."""
    values = torch.from_numpy(levels.astype(np.float32))
    return values * (module.act_alpha / module.input_denominator())


@dataclass(frozen=True)
class LevelRange:
    """Integer levels that the original's quantizer gives, float64: `lowest` to `highest`."""

    lowest: torch.Tensor
    levels: torch.Tensor
    highest: torch.Tensor


def level_range(module: QuantConv2d, operand: Bounded) -> LevelRange:
    """Quantize an input with the original's quantizer, and all that rounding can make of it."""
    step = float(module.act_alpha) / module.activation_denominator()
    # The quantizer itself rounds its scaled input a few times.
    slack = 2 * operand.bound.double()
    slack = slack + _QUANTIZER_ROUNDINGS * UNIT_ROUNDOFF * float(module.act_alpha)
    value = operand.value.double()
    lowest, levels, highest = (
        (module.quantized_input(shifted.float()).double() / step).round()
        for shifted in (value - slack, value, value + slack)
    )
    return LevelRange(lowest, levels, highest)


class Forced(fx.Interpreter):
    """Executes the original on (value, bound) pairs; its layers read the export's levels."""

    def __init__(
        self,
        traced: fx.GraphModule,
        exported: Mapping[str, NDArray[Any]],
        *,
        garbage_collect_values: bool = False,
    ) -> None:
        super().__init__(traced, garbage_collect_values=garbage_collect_values)
        self.names = value_names(traced)
        self.exported = exported
        self.running = ""
        """Name of the value that is being computed."""
        results = [node.args[0] for node in traced.graph.nodes if node.op == "output"]
        self.result = results[0]

    def name_of(self, node: fx.Node) -> str:
        """Return what the export calls a node's value."""
        return LOGITS if node is self.result else self.names[node.name]

    def module_of(self, node: fx.Node) -> nn.Module | None:
        """Return the module that a node calls, if it calls one."""
        if node.op != "call_module":
            return None
        module: nn.Module = self.fetch_attr(str(node.target))
        return module

    def norm_after(self, node: fx.Node) -> fx.Node | None:
        """Return the batch-norm that alone reads a node's value, if there is one."""
        users = list(node.users)
        module = self.module_of(users[0]) if len(users) == 1 else None
        return users[0] if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) else None

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; an input is exact."""
        self.running = self.names[n.name]
        computed = super().run_node(n)
        return exact(computed) if n.op == "placeholder" else computed

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG002 - layers take one tensor
        """Run a layer; a quantized one on the export's levels, where they are known."""
        module = self.fetch_attr(target)
        (bounded,) = args
        if isinstance(module, QuantConv2d):
            levels = self.exported.get(f"{self.running}.levels")
            if levels is not None and levels.shape == tuple(bounded.value.shape):
                bounded = exact(dequantized(module, levels))
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            return bounded_layer(module, bounded.value, bounded.bound)
        return bounded_module(module, bounded)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function on bounded arguments."""

        def call(plain: tuple[Any, ...]) -> Any:
            return super(Forced, self).call_function(target, plain, kwargs)

        return bounded_function(target.__name__, args, call)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a method on bounded arguments."""

        def call(plain: tuple[Any, ...]) -> Any:
            return super(Forced, self).call_method(target, plain, kwargs)

        return bounded_function(target, args, call)
