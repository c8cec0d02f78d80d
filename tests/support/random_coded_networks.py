"""Random coded networks that have an integer form, the same for the same seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from apot_export.encoding.encode import encode_network
from apot_export.network import (
    Add,
    AveragePool,
    Clip,
    CodedNetwork,
    Concat,
    Convolution,
    EightBitWeights,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    MultiBitWeights,
    PlaneLayer,
    Relu,
    ScaleBias,
    SourceLayer,
    Upsample,
)
from apot_export.network.bitpack import pack
from apot_export.network.codebook import Codebook, apot, power_of_two, uniform, with_levels_below
from apot_export.network.planes import Planes, as_terms, summed_terms
from tests.support.networks import Builder, Floats, Step, network_of, quantizer, weight_quantizer

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
SIGNED_INPUTS = [
    *(uniform(bits, signed=True) for bits in (1, 2, 5, 7, 8)),
    *(apot(bits, signed=True) for bits in (2, 4)),
    *(with_levels_below(uniform(2, signed=False), lowest) for lowest in (-1, -90, -3000)),
]


def two_layers(book: Codebook, activation: Codebook, seed: int) -> CodedNetwork:
    """Return a network of a layer with fixed-point inputs and a layer with levels as inputs."""
    builder = Builder(image=(3, 7, 6), seed=seed)
    first = builder.convolution("image", 4, (3, 3), book, padding=(1, 1))
    inputs = quantizer(activation, 1.1)
    return builder.head(builder.convolution(first, 5, (3, 2), book, inputs), 4, book)


# --- random operations ----------------------------------------------------------------------------


@dataclass(kw_only=True)
class RandomBuilder:
    """Adds random operations to a network."""

    builder: Builder
    rng: np.random.Generator
    inputs: Sequence[Codebook]

    def pair(self, low: int, high: int) -> tuple[int, int]:
        return int(self.rng.integers(low, high + 1)), int(self.rng.integers(low, high + 1))

    def layer(self, source: str, outputs: int, groups: int = 1, *, keep: bool = False) -> str:
        """Add a layer of random codebooks; with `keep`, height and width stay."""
        rng = self.rng
        book, inputs = (books[int(rng.integers(len(books)))] for books in (WEIGHTS, self.inputs))
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


def random_network(seed: int, inputs: Sequence[Codebook] | None = None) -> CodedNetwork:
    """Return a network with every operation in a random order, and levels of these codebooks."""
    rng = np.random.default_rng(seed)
    image = (int(rng.integers(1, 4)), int(rng.integers(8, 14)), int(rng.integers(8, 14)))
    builder = Builder(image=image, seed=seed)
    random = RandomBuilder(builder=builder, rng=rng, inputs=inputs or INPUTS)
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


# --- trained networks -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Properties of a random trained network."""

    seed: int = 0
    method: str = "apot"
    weight_bits: int = 4
    activation_bits: int = 4
    groups: int = 1
    stride: int = 1
    dilation: int = 1
    size: int = 6
    gain: float = 1.0
    """Deviation of batch-norm gains, half of them negative."""
    sign: str = ""
    """Of uniform activations: "signed" for levels as many below 0 as above, "passes" for levels as
    low as inputs are, which "relu" keeps from falling below 0."""

    def layer(
        self, name: str, shape: tuple[int, ...], generator: np.random.Generator
    ) -> SourceLayer:
        """Return a quantized layer of normally distributed weights."""
        alpha = np.float32(generator.uniform(0.5, 2.5) * generator.choice([-1, 1]))
        threshold = generator.uniform(0.3, 3.0)
        # With one bit of magnitude every method is ternary.
        method = "uniform" if self.weight_bits == 2 else self.method
        inputs = {"apot": apot, "pot": power_of_two, "uniform": uniform}[self.method]
        signed = self.sign == "signed"
        return SourceLayer(
            name=name,
            weight=generator.normal(0, 1, shape).astype(np.float32),
            quantizer=weight_quantizer(method, self.weight_bits - 1, alpha),
            activation=quantizer(inputs(self.activation_bits - signed, signed=signed), threshold),
            passes_negative_inputs=self.sign in ("passes", "relu"),
        )


def network_of_recipe(recipe: Recipe) -> CodedNetwork:
    """Encode a network with every operation: a residual block, pools, a join, an upsampling."""
    generator = np.random.default_rng(recipe.seed)

    def normal(*shape: int) -> Floats:
        return generator.normal(0, 1, shape).astype(np.float32)

    def norm(channels: int) -> ScaleBias:
        gains = generator.normal(0, recipe.gain, channels)
        return ScaleBias(scale=gains, bias=generator.normal(0, 0.5, channels))

    layers = [
        SourceLayer(name="first", weight=normal(4, 3, 3, 3), quantizer=EightBitWeights()),
        recipe.layer("block", (4, 4 // recipe.groups, 3, 3), generator),
        recipe.layer("narrow", (6, 8, 1, 1), generator),
        SourceLayer(name="last", weight=normal(5, 6), quantizer=EightBitWeights(), bias=normal(5)),
    ]
    dilation = (recipe.dilation, recipe.dilation)
    falls = recipe.sign in ("signed", "passes")
    lowest = -3.0 if falls else 0.0
    block = Convolution(layer="block", padding=dilation, dilation=dilation, groups=recipe.groups)
    steps: list[Step] = [
        ("conv", Convolution(layer="first", stride=(recipe.stride, 1), padding=(1, 1)), "image"),
        ("bn", norm(4), "conv"),
        ("relu", Clip(minimum=lowest, maximum=5.0) if falls else Relu(), "bn"),
        ("pool", MaxPool(kernel=(3, 2), stride=(1, 2), padding=(1, 1)), "relu"),
        ("branch", block, "pool"),
        ("branch.bn", norm(4), "branch"),
        ("sum", Add(), "branch.bn pool"),
        ("clip", Clip(minimum=lowest, maximum=4.0), "sum"),
        ("up", Upsample(scale=(2, 1)), "clip"),
        ("again", Upsample(scale=(2, 1)), "pool"),
        ("join", Concat(), "up again"),
        ("mean", AveragePool(kernel=(2, 1), stride=(1, 1)), "join"),
        ("narrow", Convolution(layer="narrow"), "mean"),
        ("narrow.bn", norm(6), "narrow"),
        ("narrow.relu", Relu(), "narrow.bn"),
        ("global", GlobalAveragePool(), "narrow.relu"),
        ("flat", Flatten(), "global"),
        ("logits", Linear(layer="last"), "flat"),
    ]
    return encode_network(network_of(layers, steps, (3, recipe.size, recipe.size)))


# --- sign vectors ---------------------------------------------------------------------------------


def multi_bit_network(seed: int, terms: int, *, position_major: bool) -> CodedNetwork:
    """Encode a network of multi-bit weights; one group of each layer has no sign vector."""
    generator = np.random.default_rng(seed)

    def layer(name: str, shape: tuple[int, ...], groups: int, *, major: bool) -> SourceLayer:
        size = int(np.prod(shape[1:])) // groups
        mask = generator.random((shape[0], groups, 3)) < 0.7
        mask[0, 0] = False
        bases = generator.choice(np.array([-1, 1], dtype=np.int8), (shape[0], groups, 3, size))
        coordinates = generator.uniform(0.01, 0.5, (shape[0], groups, 3)).astype(np.float32)
        weights = MultiBitWeights(
            bases=bases * mask[..., None], coordinates=coordinates, mask=mask, position_major=major
        )
        zeros = np.zeros(shape, dtype=np.float32)
        bias = generator.normal(0, 0.3, shape[0]).astype(np.float32)
        return SourceLayer(name=name, weight=zeros, quantizer=weights, bias=bias)

    layers = [
        layer("one", (4, 3, 3, 3), 9 if position_major else 3, major=position_major),
        layer("two", (5, 4), 2, major=False),
    ]
    steps: list[Step] = [
        ("conv", Convolution(layer="one", padding=(1, 1)), "image"),
        ("relu", Relu(), "conv"),
        ("global", GlobalAveragePool(), "relu"),
        ("flat", Flatten(), "global"),
        ("logits", Linear(layer="two"), "flat"),
    ]
    return encode_network(network_of(layers, steps, (3, 5, 5)), alpha_terms=terms)


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
