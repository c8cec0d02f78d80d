"""Tracing a forward pass with torch.fx, and the source lines that its operations come from."""

from __future__ import annotations

import functools
import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn

from apot_export.errors import CaptureError
from apot_export.original import _activations, _windows
from apot_export.original import primitives as p
from apot_export.original._calls import (
    REWRITINGS,
    constant_of,
    eagerly,
    is_tensor,
    shape_of,
    without_tracing,
)
from apot_export.original._rearranging import of_same_numbers
from apot_export.original.borders import TransposedConv2d, prepared, without_borders
from apot_export.original.primitives import tensors_of
from apot_export.original.quantized_layers import QuantizedLayer, is_plain, products

FILLED_BY = (_activations, _windows)
"""Modules that enter into `REWRITINGS` what they rewrite, themselves or what they import."""
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]*(?:\n {4}(?P<code>.+))?')
_OWN = ("tracing", "borders", "_calls", "_activations", "_arithmetic", "_rearranging", "_windows")
_NOT_THE_NETWORK = (
    Path(torch.__file__).parent,
    Path(__file__).with_name("architectures"),
    *(Path(__file__).with_name(f"{name}.py") for name in _OWN),
)
"""Files whose frames lie between a line of the user's network and its operation."""


_BATCHES = (2, 3)
"""Numbers of images that every operation is tried with: what depends on neither is a constant."""
_OTHER_BATCHES = (*range(1, 33), 64, 100, 128, 256, 1000)
"""Numbers for which comparisons must give the same, too."""

_LEAVES = (
    nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm,  # noqa: SLF001 - bases of all of them
    nn.Linear, nn.MultiheadAttention, nn.RNNBase,
)  # fmt: skip
"""Modules of PyTorch that are operations; others are what their forward passes call."""


_NUMBERWISE = (p.rectify, p.clip, p.elementwise, p.scale_bias, p.add, p.multiply)
"""Functions whose results are like their operands where these are alike. Run on tensors without
content, they would have PyTorch load its compiler, which takes a second."""


class _Proxy(fx.Proxy):
    """A value of the forward pass that knows its shape, and its number where it is one."""

    def __getattr__(self, name: str) -> Any:
        values = self.node.meta.get("values")
        if values is not None and isinstance(values[0], torch.Tensor):
            if name == "shape":
                return self.size()
            if name in ("ndim", "dtype"):
                return getattr(values[0], name)
            if name == "device":
                return torch.device("cpu")
        return super().__getattr__(name)

    def __len__(self) -> int:
        values = self.node.meta.get("values")
        if values is None or len(values[0]) != len(values[1]):
            raise RuntimeError("the length of a value that depends on the number of images")
        return len(values[0])


class _Tracer(fx.Tracer):
    """Traces with the shapes of an image, so that code may ask for them and branch on them."""

    def __init__(self, input_shape: Sequence[int], *, with_lines: bool) -> None:
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.record_stack_traces = with_lines
        self.without_borders: dict[str, nn.Module] = {}
        """Convolutions whose borders are operations of their own, as they remain without them."""
        self.called = ""
        """Name of the function or method whose call is being rewritten."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, (TransposedConv2d, *QuantizedLayer)) or is_plain(m):
            return True
        is_known = isinstance(m, _LEAVES) and "forward" not in vars(m)
        return is_known and super().is_leaf_module(m, module_qualified_name)

    def path_of_module(self, mod: nn.Module) -> str:
        # Of a module with several names the first, which is what `named_modules` calls it, too.
        for name, module in self.root.named_modules():
            if module is mod:
                return name
        return super().path_of_module(mod)

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *rest: Any,
        **more: Any,
    ) -> Any:
        """Add an operation in terms of `primitives`, or return what it is where that is known."""
        if kind == "call_function" and _is_marked(target):
            return target(*args, **kwargs)
        if kind in ("call_function", "call_method", "call_module"):
            outer, self.called = self.called, getattr(target, "__name__", str(target))
            try:
                known, values, args = self._known(kind, target, args, kwargs)
            finally:
                self.called = outer
            if known is not None:
                return known
        else:
            values = self._given(kind, target)
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        if values is not None:
            proxy.node.meta["values"] = values
            if kind != "get_attr" and (shape := _image_shape(values)) is not None:
                proxy.node.meta["shape"] = shape
        return proxy

    def _inputs(self, target: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what a layer reads: a convolution without its borders, which come before it."""
        layer = self.root.get_submodule(target)
        if isinstance(layer, nn.Conv2d):
            self.without_borders[target] = without_borders(layer)
            return tuple(prepared(layer, arg) if is_tensor(arg) else arg for arg in args)
        if isinstance(layer, nn.Linear) and is_tensor(args[0]) and len(shape_of(args[0])) > 1:
            raise CaptureError(
                f"The linear layer {target!r} reads the last of several axes.",
                expected="images x features",
                got=f"images x {' x '.join(map(str, shape_of(args[0])))}",
                fix="use Conv2d with a kernel of 1 x 1 on the channels, which computes the same",
            )
        return args

    def _known(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Any, tuple[Any, ...]]:
        """Return what a call is where that is known, else its results, and its arguments."""
        if kind == "call_module":
            args = self._inputs(target, args)
            return None, self._values(kind, target, args, kwargs), args
        if (rewritten := self._rewritten(target, args, kwargs)) is not None:
            return rewritten, None, args
        values = self._values(kind, target, args, kwargs)
        if values is None:
            return None, None, args
        if (shape := _image_shape(values)) is not None and args and is_tensor(args[0]):
            return of_same_numbers(target, args[0], shape), values, args
        if not tensors_of(values[0]) and values[0] == values[1]:
            if not isinstance(values[0], bool) or _always(target, args, kwargs, values[0]):
                return values[0], values, args
            values = None  # of some numbers of images: nothing may depend on it
        return None, values, args

    def _rewritten(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rewriting = REWRITINGS.get(target)
        of_lists = [one for arg in args if isinstance(arg, (tuple, list)) for one in arg]
        if rewriting is None or not any(map(is_tensor, (*args, *of_lists))):
            return None
        try:
            return rewriting(*args, **kwargs)
        except CaptureError as error:
            kind = self.scope.module_type
            if error.where is None and kind is not None and kind.__module__.startswith("torch.nn"):
                error.where = self.scope.module_path
            raise
        except (TypeError, ValueError, IndexError, KeyError):
            return None

    def _given(self, kind: str, target: Any) -> tuple[Any, Any] | None:
        if kind == "placeholder":
            one, other = (torch.empty(n, *self.input_shape, device="meta") for n in _BATCHES)
            return one, other
        if kind == "get_attr":
            found = constant_of(self.root, str(target))
            meta = found.to("meta") if isinstance(found, torch.Tensor) else found
            return meta, meta
        return None

    def _values(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Any] | None:
        """Run an operation on tensors without content; None where it does not run so."""
        found = []
        for index in range(2):

            def known(value: Any, index: int = index) -> Any:
                if isinstance(value, fx.Proxy):
                    return value.node.meta["values"][index]
                return value.to("meta") if isinstance(value, torch.Tensor) else value

            try:
                plain, options = (_mapped(part, known) for part in (args, kwargs))
                with torch.no_grad(), without_tracing():
                    if kind == "call_module":
                        module = self.without_borders.get(target, self.root.get_submodule(target))
                        found.append(_run_on_meta(module, plain, options))
                    elif kind == "call_method":
                        found.append(getattr(plain[0], target)(*plain[1:], **options))
                    elif target in _NUMBERWISE and _are_alike(plain):
                        found.append(plain[0])
                    else:
                        found.append(target(*plain, **options))
            except Exception:  # noqa: BLE001 - whatever the code raises: then nothing is known
                return None
        # A call that only makes a tensor contiguous is none here.
        few, more = (v.contiguous() if isinstance(v, torch.Tensor) else v for v in found)
        return few, more

    def to_bool(self, obj: fx.Proxy) -> bool:
        values = obj.node.meta.get("values")
        if values is None or tensors_of(values) or bool(values[0]) != bool(values[1]):
            return super().to_bool(obj)
        return bool(values[0])


def _is_marked(target: Any) -> bool:
    """Tell whether a function is a network's own, which `torch.fx.wrap` keeps whole in graphs."""
    package = str(getattr(target, "__module__", "")).split(".")[0]
    return isinstance(target, FunctionType) and package not in ("torch", __name__.split(".")[0])


def _image_shape(values: tuple[Any, Any]) -> tuple[int, ...] | None:
    """Return the shape of a float32 tensor without the batch axis; None for anything else."""
    if not isinstance(values[0], torch.Tensor) or values[0].dtype is not torch.float32:
        return None
    few, more = (tuple(value.shape) for value in values)
    is_batch = (few[:1], more[:1]) == ((_BATCHES[0],), (_BATCHES[1],)) and few[1:] == more[1:]
    return few[1:] if is_batch else None


def _run_on_meta(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and not options:  # noqa: SLF001 - likewise
        return args[0]
    if isinstance(module, (nn.Conv2d, nn.Linear)):  # quantized or not, of the same shapes
        (image,) = args
        return products(module, image, module.weight.to("meta"))
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    meta = {name: tensor.to("meta") for name, tensor in tensors.items()}
    return torch.func.functional_call(module, meta, args, options)


def _are_alike(values: Sequence[Any]) -> bool:
    """Tell whether the tensors among some values are of one shape and type."""
    return len({(one.shape, one.dtype) for one in values if isinstance(one, torch.Tensor)}) == 1


def _mapped(values: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(values, (tuple, list)) and not isinstance(values, torch.Size):
        return type(values)(_mapped(value, change) for value in values)
    if isinstance(values, dict):
        return {name: _mapped(value, change) for name, value in values.items()}
    if isinstance(values, slice):
        return slice(*(change(part) for part in (values.start, values.stop, values.step)))
    return change(values)


def _always(target: Any, args: Any, kwargs: Any, found: bool) -> bool:
    """Tell whether a comparison gives the same for any number of images."""

    def at(value: Any, images: int) -> Any:
        if not isinstance(value, fx.Proxy):
            return value
        few, more = value.node.meta["values"]
        if isinstance(few, tuple):
            return type(few)(a + (b - a) * (images - 2) for a, b in zip(few, more, strict=True))
        return few + (more - few) * (images - 2)

    try:
        for images in _OTHER_BATCHES:
            known = functools.partial(at, images=images)
            if target(*_mapped(args, known), **_mapped(kwargs, known)) is not found:
                return False
    except TypeError:  # of values that are no numbers
        pass
    return True


def trace(
    module: nn.Module, input_shape: Sequence[int], *, with_lines: bool = False
) -> fx.GraphModule:
    """Trace a module's forward pass down to its layers.

    The tensors' nodes have their shape without the batch axis in `meta["shape"]`.

    Args:
        module: The network.
        input_shape: One image: (channels, height, width).
        with_lines: Record the source line of every operation; PyTorch takes a second for it.

    Raises:
        CaptureError: The forward pass depends on data in a way that no graph can say.
    """
    try:
        with eagerly():
            tracer = _Tracer(input_shape, with_lines=with_lines)
            traced = fx.GraphModule(module, tracer.trace(module))
            for path, layer in tracer.without_borders.items():
                traced.set_submodule(path, layer)
            return traced
    except Exception as error:
        frames = [
            (frame.filename, frame.lineno or 0, frame.line or "")
            for frame in traceback.extract_tb(error.__traceback__)
        ]
        line = _last_of_network(frames)
        where = line or type(module).__name__
        if isinstance(error, CaptureError):
            error.where = ", ".join(filter(None, (error.where, line))) or where
            raise
        raise CaptureError(
            "The network's forward pass cannot be captured as a graph.",
            where=where,
            expected="a forward pass without data-dependent control flow",
            got=(str(error) or type(error).__name__).splitlines()[0],
            fix="let no Python branch, loop or index depend on a tensor's values",
        ) from error


def result_of(traced: fx.GraphModule) -> fx.Node | None:
    """Return the first tensor that a network computes and returns."""
    results = next(node for node in traced.graph.nodes if node.op == "output").all_input_nodes
    return next((node for node in results if node.op != "placeholder"), None)


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
        module = str(node.target) if node.op == "call_module" else node.meta.get("module")
        if module is not None:
            wanted = module
            scope = wanted.rpartition(".")[0]
        elif node.op in ("call_function", "call_method"):
            function = getattr(node.target, "__name__", str(node.target)).strip("_")
            wanted = ".".join(filter(None, (scope, node.meta.get("called", function))))
        else:
            wanted = str(node.name)
        name, number = wanted, 1
        while name in used:
            number += 1
            name = f"{wanted}_{number}"
        used.add(name)
        names[node.name] = name
    return names
