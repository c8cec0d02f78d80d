"""Random coded networks that have an integer form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from apot_export.network import (
    ActivationQuantizer,
    Add,
    AveragePool,
    Clip,
    CodedNetwork,
    Concat,
    Convolution,
    Flatten,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Node,
    Operation,
    PlaneLayer,
    QuantizeActivation,
    Relu,
    ScaleBias,
    Upsample,
)
from apot_export.network.bitpack import pack
from apot_export.network.codebook import Codebook, apot, power_of_two, uniform
from apot_export.network.planes import Planes, as_terms, summed_terms
from tests.support.onnx_networks import CodedGraph, coded, quantizer

WEIGHTS = [
    *(apot(bits, signed=True) for bits in range(2, 7)),
    *(uniform(bits, signed=True) for bits in (1, 3, 7, 8)),
    *(power_of_two(bits, signed=True) for bits in (2, 3)),
    Codebook(tables=((0, 1, -4, 16), (0, -2)), denominator=17, signed=False),
]
INPUTS = [
    *(apot(bits, signed=False) for bits in range(2, 7)),
    *(uniform(bits, signed=False) for bits in (1, 4, 8, 9)),
    power_of_two(3, signed=False),
]


def plane_layer(
    name: str,
    shape: tuple[int, ...],
    group_size: int,
    *,
    position_major: bool = False,
    seed: int = 0,
    terms: int = 3,
) -> PlaneLayer:
    """Return a layer of random sign vectors; about a quarter of its groups have none."""
    rng = np.random.default_rng(seed)
    groups = math.prod(shape) // group_size
    counts = rng.integers(0, 4, groups).astype(np.uint8)
    bases = int(counts.sum())
    found = as_terms(rng.normal(size=bases).astype(np.float32), terms)
    signs = rng.integers(0, 2, bases * group_size).astype(np.uint8)
    planes = Planes(
        shape=shape,
        group_size=group_size,
        position_major=position_major,
        counts=counts,
        packed=pack(signs, 1),
        coordinates=summed_terms(found),
        terms=found,
    )
    return PlaneLayer(name=name, planes=planes)


@dataclass(kw_only=True)
class Builder:
    """Adds operations to a network, one after the other."""

    image: tuple[int, int, int]
    seed: int = 0
    nodes: list[Node] = field(default_factory=list)
    layers: dict[str, Layer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def add(self, operation: Operation, *inputs: str) -> str:
        name = f"{type(operation).__name__.lower()}{len(self.nodes)}"
        self.nodes.append(Node(name=name, inputs=inputs, operation=operation))
        return name

    def finished(self, output: str) -> CodedNetwork:
        return CodedGraph(
            nodes=tuple(self.nodes),
            layers=self.layers,
            input="image",
            input_shape=self.image,
            output=output,
        )

    def shape(self, value: str) -> tuple[int, ...]:
        return self.finished("image").shapes[value]

    def add_up(self, first: str, second: str) -> str:
        return self.add(Add(), first, second)

    def affine(self, source: str, gain: float, *, scalar: bool = False) -> str:
        """Scale and shift, about a third of the channels downwards."""
        channels = 1 if scalar else self.shape(source)[0]
        sign = np.where(self.rng.random(channels) < 0.3, -1.0, 1.0)
        scale = (self.rng.uniform(0.5, 2.0, channels) * sign * gain).astype(np.float32)
        bias = self.rng.normal(size=channels).astype(np.float32) * np.float32(0.3)
        return self.add(ScaleBias(scale=scale, bias=bias), source)

    def convolution(
        self,
        source: str,
        outputs: int,
        kernel: tuple[int, int],
        book: Codebook,
        activation: ActivationQuantizer | None = None,
        *,
        scalar: bool = False,
        groups: int = 1,
        **attributes: tuple[int, int],
    ) -> str:
        """Add a layer, its input's quantizer if it has one, and the scales behind it."""
        inputs = self.shape(source)[0] // groups
        name = f"layer{len(self.layers)}"
        shape = (outputs, inputs, *kernel)
        codes = self.rng.integers(0, 1 << book.bits, shape)
        self.layers[name] = coded(name, shape, book, activation, codes)
        unit = 1.0
        if activation is not None:
            source = self.add(QuantizeActivation(layer=name), source)
            unit = activation.codebook.denominator
        operation = Convolution(layer=name, groups=groups, **attributes)
        sums = self.add(operation, source)
        gain = 1 / (book.denominator * math.sqrt(inputs * math.prod(kernel)) * unit)
        return self.affine(sums, gain, scalar=scalar)

    def head(self, source: str, classes: int, book: Codebook) -> CodedNetwork:
        """Add a matrix product whose results are the logits."""
        flat = self.add(Flatten(), source)
        name = f"layer{len(self.layers)}"
        self.layers[name] = coded(name, (classes, self.shape(flat)[0]), book, None, self.seed)
        return self.finished(self.affine(self.add(Linear(layer=name), flat), 1 / book.denominator))


def small(book: Codebook, activation: Codebook, seed: int) -> CodedNetwork:
    """Return a network of a layer of fixed-point inputs and a layer of levels."""
    builder = Builder(image=(3, 7, 6), seed=seed)
    first = builder.convolution("image", 4, (3, 3), book, padding=(1, 1))
    inputs = quantizer(activation, 1.1)
    return builder.head(builder.convolution(first, 5, (3, 2), book, inputs), 4, book)


@dataclass(kw_only=True)
class RandomBuilder:
    """Adds random operations to a network."""

    builder: Builder
    rng: np.random.Generator

    def pair(self, low: int, high: int) -> tuple[int, int]:
        return int(self.rng.integers(low, high + 1)), int(self.rng.integers(low, high + 1))

    def layer(self, source: str, outputs: int, groups: int = 1, *, keep: bool = False) -> str:
        """Add a layer of any codebooks; `keep`: height and width stay."""
        rng = self.rng
        book, inputs = (books[rng.integers(len(books))] for books in (WEIGHTS, INPUTS))
        activation = quantizer(inputs, float(rng.uniform(0.5, 2.0))) if rng.random() < 0.8 else None
        kernel, attributes = (3, 3), {"padding": (1, 1)}
        if not keep:
            kernel = self.pair(1, 3)
            attributes = {
                "stride": self.pair(1, 2),
                "padding": self.pair(1, 3),
                "dilation": self.pair(1, 2),
            }
        return self.builder.convolution(
            source,
            outputs,
            kernel,
            book,
            activation,
            scalar=bool(rng.random() < 0.2),
            groups=groups,
            **attributes,
        )

    def residual(self, value: str) -> str:
        return self.builder.add(Add(), value, self.layer(value, 6, keep=True))

    def joined(self, value: str) -> str:
        sides = [self.layer(value, 3, keep=True) for _ in range(2)]
        return self.layer(self.builder.add(Concat(), sides[0], value, sides[1]), 6, 3)

    def averaged(self, value: str) -> str:
        pool = AveragePool(kernel=self.pair(1, 2), stride=self.pair(1, 2))
        return self.layer(self.builder.add(pool, value), 6, 2)

    def branches(self, value: str) -> str:
        first, second = self.layer(value, 6, 6, keep=True), self.layer(value, 6, keep=True)
        return self.builder.add(Add(), first, second)

    def largest(self, value: str) -> str:
        padding = self.pair(0, 1)
        pool = MaxPool(kernel=self.pair(2, 3), stride=self.pair(1, 2), padding=padding)
        return self.builder.add(pool, value)


def random_network(seed: int) -> CodedNetwork:
    """Return a network with every operation in a random order."""
    rng = np.random.default_rng(seed)
    image = (int(rng.integers(1, 4)), int(rng.integers(8, 14)), int(rng.integers(8, 14)))
    builder = Builder(image=image, seed=seed)
    random = RandomBuilder(builder=builder, rng=rng)
    kernel, padding = random.pair(2, 4), random.pair(1, 4)
    value = builder.convolution("image", 6, kernel, uniform(7, signed=True), padding=padding)
    steps: list[Callable[[str], str]] = [
        lambda value: builder.add(Relu(), value),
        lambda value: builder.add(Clip(minimum=-0.7, maximum=1.9), value),
        lambda value: builder.add(Upsample(scale=random.pair(1, 3)), value),
        lambda value: random.layer(value, 6),
        random.largest,
        random.residual,
        random.joined,
        random.averaged,
        random.branches,
    ]
    for choice in rng.permutation(len(steps)):
        if min(builder.shape(value)[1:]) < 6:
            value = builder.add(Upsample(scale=(3, 2)), value)
        value = steps[choice](value)
    if rng.random() < 0.5:
        value = builder.add(GlobalAveragePool(), value)
    return builder.head(value, 5, WEIGHTS[rng.integers(len(WEIGHTS))])


def plane_network(seed: int = 0) -> CodedNetwork:
    """Return a network of sign-vector layers: groups inside, along and across outputs."""
    builder = Builder(image=(3, 9, 8), seed=seed)
    layers = [
        plane_layer("channels", (4, 3, 3, 3), 9, seed=seed),
        plane_layer("positions", (6, 4, 3, 2), 4, position_major=True, seed=seed + 1),
        plane_layer("across", (4, 3, 2, 2), 16, seed=seed + 2, terms=2),
        plane_layer("all", (5, 120), 600, seed=seed + 3),
        plane_layer("last", (3, 5), 1, seed=seed + 4, terms=1),
    ]
    builder.layers = {layer.name: layer for layer in layers}
    value = builder.affine(builder.add(Convolution(layer="channels", padding=(1, 1)), "image"), 0.3)
    value = builder.add(MaxPool(kernel=(2, 2), stride=(2, 1)), builder.add(Relu(), value))
    positions = Convolution(layer="positions", padding=(2, 1), stride=(1, 2), dilation=(2, 1))
    value = builder.affine(builder.add(positions, value), 0.3)
    across = Convolution(layer="across", padding=(0, 1), groups=2)
    value = builder.affine(builder.add(across, value), 0.3, scalar=True)
    flat = builder.add(Flatten(), value)
    size = builder.shape(flat)[0]
    builder.layers["all"] = plane_layer("all", (5, size), 5 * size, seed=seed + 3)
    value = builder.affine(builder.add(Linear(layer="all"), flat), 0.1)
    return builder.finished(builder.affine(builder.add(Linear(layer="last"), value), 0.1))


def images_of(network: CodedNetwork, count: int) -> NDArray[np.float32]:
    """Return random images, one of the largest and one of the smallest numbers of the input."""
    shape = (count, *network.input_shape)
    images = np.random.default_rng(count).normal(size=shape).astype(np.float32) * np.float32(2)
    images[-1], images[-2] = 100, -100
    return images
