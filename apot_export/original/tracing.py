"""Tracing a forward pass with torch.fx, and the source lines that its operations come from."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import fx, nn

from apot_export.errors import CaptureError
from apot_export.original.quantized_layers import QuantizedLayer

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]*(?:\n {4}(?P<code>.+))?')
_NOT_THE_NETWORK = (Path(torch.__file__).parent, Path(__file__))
"""Files whose frames lie between a line of the network and its operation."""


def is_plain(layer: nn.Module) -> bool:
    """Tell whether a convolution or linear layer computes what PyTorch's own computes."""
    if "forward" in vars(layer):  # of this one object
        return False
    if isinstance(layer, nn.Conv2d):
        forward, convolve = type(layer).forward, type(layer)._conv_forward  # noqa: SLF001 - overridden by forks
        return forward is nn.Conv2d.forward and convolve is nn.Conv2d._conv_forward  # noqa: SLF001 - likewise
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


class _Tracer(fx.Tracer):
    def __init__(self, *, with_lines: bool) -> None:
        super().__init__()
        self.record_stack_traces = with_lines

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, QuantizedLayer) or is_plain(m):
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def path_of_module(self, mod: nn.Module) -> str:
        # Of a module with several names the first, which is what `named_modules` calls it, too.
        for name, module in self.root.named_modules():
            if module is mod:
                return name
        return super().path_of_module(mod)


@contextmanager
def eagerly() -> Iterator[None]:
    """Run functions that were compiled with `torch.compile` as they are written."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:
        yield
        return
    nested = dynamo.config.patch(error_on_nested_fx_trace=False)
    with torch.compiler.set_stance("force_eager"), nested:
        yield


def trace(module: nn.Module, *, with_lines: bool = False) -> fx.GraphModule:
    """Trace a module's forward pass down to its layers.

    Args:
        module: The network.
        with_lines: Record the source line of every operation; PyTorch takes a second for it.

    Raises:
        CaptureError: The forward pass depends on data in a way that no graph can say.
    """
    try:
        with eagerly():
            return fx.GraphModule(module, _Tracer(with_lines=with_lines).trace(module))
    except Exception as error:
        frames = [
            (frame.filename, frame.lineno or 0, frame.line or "")
            for frame in traceback.extract_tb(error.__traceback__)
        ]
        raise CaptureError(
            "The network's forward pass cannot be captured as a graph.",
            where=_last_of_network(frames) or type(module).__name__,
            expected="a forward pass without data-dependent control flow",
            got=(str(error) or type(error).__name__).splitlines()[0],
            fix="let no Python branch, loop or index depend on a tensor's values",
        ) from error


def source_line(node: fx.Node) -> str | None:
    """Return the line of the network's code that an operation comes from, as FILE:LINE: CODE."""
    frames = [
        (match["file"], int(match["line"]), match["code"] or "")
        for match in _FRAME.finditer(node.stack_trace or "")
    ]
    return _last_of_network(frames)


def place(node: fx.Node) -> str:
    """Return where an operation is: its source line, else its name in the graph."""
    return source_line(node) or str(node.name)


def _last_of_network(frames: list[tuple[str, int, str]]) -> str | None:
    for file, line, code in reversed(frames):
        if file.startswith("<") or any(Path(file).is_relative_to(f) for f in _NOT_THE_NETWORK):
            continue
        return f"{file}:{line}: {code.strip()}".removesuffix(": ")
    return None


def value_names(traced: fx.GraphModule) -> dict[str, str]:
    """Map every fx node name to the name of its value in the intermediate representation.

    A layer's output has the layer's dotted path; repeated calls get a number; a function's output
    is named after the module whose layers surround it.
    """
    names: dict[str, str] = {}
    used: set[str] = set()
    scope = ""
    for node in traced.graph.nodes:
        if node.op == "call_module":
            wanted = str(node.target)
            scope = wanted.rpartition(".")[0]
        elif node.op in ("call_function", "call_method"):
            function = node.target if isinstance(node.target, str) else node.target.__name__
            wanted = ".".join(filter(None, (scope, function.strip("_"))))
        else:
            wanted = str(node.name)
        name, number = wanted, 1
        while name in used:
            number += 1
            name = f"{wanted}_{number}"
        used.add(name)
        names[node.name] = name
    return names
