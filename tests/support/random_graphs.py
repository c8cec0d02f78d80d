"""Random graphs of quantized networks: values that several nodes read, in every way there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from apot_export.network import (
    Add,
    AveragePool,
    Clip,
    CodedNetwork,
    Concat,
    GlobalAveragePool,
    MaxPool,
    Node,
    Relu,
    ScaleBias,
    Upsample,
)
from apot_export.network.codebook import apot, uniform
from tests.support.networks import Builder, Floats, quantizer

_WEIGHTS = [apot(3, signed=True), apot(2, signed=True), uniform(3, signed=True)]
_INPUTS = [apot(4, signed=False), apot(2, signed=False), uniform(3, signed=False)]


@dataclass(kw_only=True)
class _Graph:
    builder: Builder
    rng: np.random.Generator
    values: list[str] = field(default_factory=list)
    """All that further nodes may read, every one of three axes."""

    def pick(self, like: str | None = None, *, channels: bool = True) -> str:
        """Return a value, a recent one rather than an old one, of the shape of another."""
        fitting = self.values
        if like is not None:
            wanted = self.builder.shape(like)[0 if channels else 1 :]
            fitting = [
                v for v in fitting if self.builder.shape(v)[0 if channels else 1 :] == wanted
            ]
        return fitting[-1 - int(min(self.rng.geometric(0.5) - 1, len(fitting) - 1))]

    def some(self, *choices: int) -> int:
        return int(self.rng.choice(choices))

    def convolution(self, source: str, *, keep: bool = False) -> str:
        """Add a layer with levels as inputs; half of them have no batch-norm and no bias."""
        builder, rng = self.builder, self.rng
        channels = builder.shape(source)[0]
        keeps, bare = keep or rng.random() < 0.7, rng.random() < 0.5
        kernel, groups = self.some(1, 3), self.some(1, 1, 2)
        outputs = channels if keeps else self.some(4, 8, 12)
        value = builder.convolution(
            source,
            outputs,
            (kernel, kernel),
            _WEIGHTS[self.some(0, 1, 2)],
            quantizer(_INPUTS[self.some(0, 1, 2)], float(rng.uniform(0.5, 2.0))),
            scalar=bare,
            groups=groups,
            padding=(kernel // 2, kernel // 2),
            stride=(1, 1) if keeps or min(builder.shape(source)[1:]) < 4 else (2, 2),
        )
        if bare:
            last = builder.nodes[-1]
            assert isinstance(last.operation, ScaleBias)
            step = ScaleBias(scale=np.abs(last.operation.scale), bias=np.zeros(1, np.float32))
            builder.nodes[-1] = Node(name=last.name, inputs=last.inputs, operation=step)
        return value

    def grow(self) -> None:
        """Add one operation."""
        add, value = self.builder.add, self.pick()
        steps: list[Callable[[], str]] = [
            lambda: self.convolution(value),
            lambda: self.convolution(value),
            lambda: add(Add(), value, self.pick(value)),
            lambda: add(Add(), self.convolution(value, keep=True), value),
            lambda: add(Add(), value, add(Relu(), value)),
            lambda: add(Relu(), value),
            lambda: add(Clip(minimum=-0.5, maximum=2.5), value),
            lambda: add(MaxPool(kernel=(3, 3), stride=(1, 1), padding=(1, 1)), value),
            lambda: self.joined(value),
            lambda: self.resized(value),
        ]
        self.values.append(steps[int(self.rng.integers(len(steps)))]())

    def joined(self, value: str) -> str:
        """Join channels, some of them twice, unless there are many already."""
        if self.builder.shape(value)[0] > 24:
            return self.builder.add(Relu(), value)
        return self.builder.add(Concat(), value, self.pick(value, channels=False))

    def resized(self, value: str) -> str:
        """Halve height and width, or double them."""
        if min(self.builder.shape(value)[1:]) < 4:
            return self.builder.add(Upsample(scale=(2, 2)), value)
        pools = [AveragePool, MaxPool]
        return self.builder.add(pools[self.some(0, 1)](kernel=(2, 2), stride=(2, 2)), value)


def random_graph(seed: int) -> CodedNetwork:
    """Return a random network, the same for the same seed."""
    rng = np.random.default_rng(seed)
    builder = Builder(image=(int(rng.integers(1, 4)), 8, 8), seed=seed)
    graph = _Graph(builder=builder, rng=rng)
    first = uniform(7, signed=True)
    value = builder.convolution("image", graph.some(4, 8), (3, 3), first, padding=(1, 1))
    graph.values += [value, builder.add(Relu(), value)]
    for _ in range(int(rng.integers(3, 9))):
        graph.grow()
    last, other = graph.values[-1], graph.pick(graph.values[-1])
    ends = [
        lambda: last,
        lambda: builder.add(Add(), last, other),
        lambda: builder.add(GlobalAveragePool(), last),
        lambda: builder.add(GlobalAveragePool(), builder.add(Add(), last, other)),
    ]
    return builder.head(ends[int(rng.integers(len(ends)))](), 5, _WEIGHTS[0])


def exact_images(network: CodedNetwork, count: int) -> Floats:
    """Return images of multiples of 1/16 below 4: the first layer adds them without rounding."""
    shape = (count, *network.input_shape)
    return (np.random.default_rng(count).integers(-63, 64, shape) / 16).astype(np.float32)
