"""What batch-norm remembers of a quantized network: the sites where its means can be predicted.

A batch-norm behind a quantized convolution holds the mean of that convolution's output while it was
trained. The convolution's input is often a ReLU of another batch-norm's output, or of a sum of such
outputs, whose channels have a known mean and deviation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from apot_export.original import primitives as p
from apot_export.original.quantized_layers import QuantConv2d, padding_of
from apot_export.original.tracing import trace

Floats = NDArray[np.float64]

_FEWEST_CHANNELS, _MOST_CHANNELS, _MOST_WEIGHTS = 16, 64, 150_000
"""Output channels of a layer that are compared: hundreds make the evidence no clearer."""
_SMALLEST_DEVIATION = 1e-6
_SMALLEST_VARIANCE = 1e-3
"""Share of a layer's median variance that a channel counts as having: dead ones have none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Normal:
    """Channels that are taken to be normally distributed, and whether a ReLU follows."""

    mean: Floats
    """[channels]"""
    deviation: Floats
    """[channels]"""
    rectified: bool = False
    is_sum: bool = False
    """A sum of several values, whose correlation is not known."""

    def moments(self) -> tuple[Floats, Floats]:
        """Return mean and variance, behind the ReLU if there is one; float64 [channels]."""
        if not self.rectified:
            return self.mean, self.deviation**2
        z = self.mean / self.deviation
        inside, density = normal_cdf(z), np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        mean = self.mean * inside + self.deviation * density
        square = (self.mean**2 + self.deviation**2) * inside + self.mean * self.deviation * density
        return mean, np.maximum(square - mean**2, 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """A quantized convolution between values of known mean and a batch-norm."""

    name: str
    layer: QuantConv2d
    source: Normal
    """The layer's input, before its quantizer."""
    channels: NDArray[np.int64]
    """Output channels that are compared."""
    means: Floats
    """[channels compared]: what batch-norm remembers, without the convolution's own bias."""
    variances: Floats
    """[channels compared]"""
    inside: Floats
    """[taps]: the share of output positions at which a tap lies inside the image."""


def normal_cdf(z: Floats) -> Floats:
    """Return the probability that a standard normal variable lies below z, any shape."""
    return torch.special.ndtr(torch.from_numpy(np.asarray(z, dtype=np.float64))).numpy()


def find_sites(module: nn.Module, input_shape: tuple[int, ...]) -> list[Site]:
    """Return every site of a network in evaluation mode, in order of computation.

    Args:
        module: A network of the layers of `quantized_layers` and plain PyTorch ones.
        input_shape: One image: (channels, height, width).
    """
    traced = trace(module, input_shape)
    sizes = {node: node.meta["shape"][1:] for node in traced.graph.nodes if "shape" in node.meta}
    values: dict[fx.Node, Normal | None] = {}
    sites = []
    for node in traced.graph.nodes:
        values[node] = _normal(traced, node, values)
        site = _site(traced, node, values, sizes)
        if site is not None:
            sites.append(site)
    return sites


def _normal(
    traced: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Normal | None]
) -> Normal | None:
    """Return what is known about a node's values; None where it is too little."""
    inputs = [values.get(source) for source in node.all_input_nodes]
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            deviation = module.weight.detach().abs().double().numpy()
            return Normal(
                mean=module.bias.detach().double().numpy(),
                deviation=np.maximum(deviation, _SMALLEST_DEVIATION),
            )
        return None
    if node.target is p.add:
        return _sum(inputs)
    return _rectified(inputs[0]) if node.target is p.rectify else None


def _rectified(value: Normal | None) -> Normal | None:
    if value is None:
        return None
    return Normal(mean=value.mean, deviation=value.deviation, rectified=True, is_sum=value.is_sum)


def _sum(values: list[Normal | None]) -> Normal | None:
    known = [value for value in values if value is not None]
    if len(known) < 2 or len(known) < len(values):  # noqa: PLR2004 - two summands
        return None
    moments = [value.moments() for value in known]
    variance = sum(v for _, v in moments)
    deviation = np.maximum(np.sqrt(variance), _SMALLEST_DEVIATION)
    return Normal(mean=np.asarray(sum(m for m, _ in moments)), deviation=deviation, is_sum=True)


def _site(
    traced: fx.GraphModule,
    node: fx.Node,
    values: dict[fx.Node, Normal | None],
    sizes: dict[fx.Node, tuple[int, ...]],
) -> Site | None:
    """Return the site of a batch-norm's node; None where nothing can be predicted."""
    if node.op != "call_module":
        return None
    norm, convolution = traced.get_submodule(str(node.target)), node.all_input_nodes[0]
    if not isinstance(norm, nn.BatchNorm2d) or convolution.op != "call_module":
        return None
    layer = traced.get_submodule(str(convolution.target))
    source = values.get(convolution.all_input_nodes[0])
    if not isinstance(layer, QuantConv2d) or source is None or not layer.has_thresholds:
        return None
    if norm.running_mean is None or norm.running_var is None:
        return None
    means = norm.running_mean.double().numpy()
    variances = norm.running_var.double().numpy()
    if layer.bias is not None:
        means = means - layer.bias.detach().double().numpy()
    most = _MOST_WEIGHTS // layer.weight[0].numel()
    if not (np.isfinite(means).all() and np.isfinite(variances).all() and variances.min() >= 0):
        return None
    count = min(len(means), max(_FEWEST_CHANNELS, min(most, _MOST_CHANNELS)))
    channels = np.linspace(0, len(means) - 1, count).round().astype(np.int64)
    floor = _SMALLEST_VARIANCE * float(np.median(variances)) + _SMALLEST_DEVIATION**2
    return Site(
        name=str(convolution.target),
        layer=layer,
        source=source,
        channels=channels,
        means=means[channels],
        variances=np.maximum(variances[channels], floor),
        inside=_inside(layer, sizes[convolution.all_input_nodes[0]], sizes[convolution]),
    )


def _inside(layer: QuantConv2d, read: tuple[int, ...], written: tuple[int, ...]) -> Floats:
    """Return the share of positions at which each tap of a kernel lies inside the image."""
    shares = []
    padding = padding_of(layer) or (0, 0)
    for axis in range(2):
        starts = np.arange(written[axis]) * layer.stride[axis] - padding[axis]
        taps = np.arange(layer.kernel_size[axis]) * layer.dilation[axis]
        places = starts[:, None] + taps
        shares.append(((places >= 0) & (places < read[axis])).mean(axis=0))
    return np.outer(*shares).reshape(-1)
