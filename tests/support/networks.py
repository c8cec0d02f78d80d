"""Small networks for tests, built by hand, and the builder that all networks of the tests share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.encoding.encode import encode_network
from apot_export.network import (
    ActivationQuantizer,
    Add,
    AveragePool,
    CodedLayer,
    CodedNetwork,
    Convolution,
    EightBitWeights,
    Flatten,
    FloatLayer,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Network,
    Node,
    Operation,
    QuantizeActivation,
    Relu,
    ScaleBias,
    SourceLayer,
    WeightQuantizer,
)
from apot_export.network.bitpack import pack
from apot_export.network.codebook import (
    Codebook,
    apot,
    apot_candidates,
    power_of_two,
    power_of_two_candidates,
    uniform,
)

Floats = NDArray[np.float32]
Step = tuple[str, Operation, str]
"""A value's name, the operation that computes it, and its inputs' names, separated by spaces."""


# --- the builder ----------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Builder:
    """Adds layers and operations to a network, one after the other."""

    image: tuple[int, ...]
    seed: int = 0
    nodes: list[Node] = field(default_factory=list)
    layers: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def add(self, operation: Operation, *inputs: str, name: str = "") -> str:
        """Add an operation and return its name, made of its kind and number unless given."""
        name = name or f"{type(operation).__name__.lower()}{len(self.nodes)}"
        self.nodes.append(Node(name=name, inputs=inputs, operation=operation))
        return name

    def finished(self, output: str) -> Network[Any]:
        return Network[Any](
            nodes=tuple(self.nodes),
            layers=self.layers,
            input="image",
            input_shape=self.image,
            output=output,
        )

    def shape(self, value: str) -> tuple[int, ...]:
        return self.finished("image").shapes[value]

    def affine(self, source: str, gain: float, *, scalar: bool = False) -> str:
        """Scale and shift; about a third of the channels have a negative scale."""
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
        """Add a layer of random codes, the quantizer of its input, and its scales."""
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
        """Add a linear layer whose results are the logits, and finish."""
        flat = self.add(Flatten(), source)
        name = f"layer{len(self.layers)}"
        self.layers[name] = coded(name, (classes, self.shape(flat)[0]), book, None, self.seed)
        return self.finished(self.affine(self.add(Linear(layer=name), flat), 1 / book.denominator))


def network_of(
    layers: Sequence[SourceLayer | Layer], steps: Sequence[Step], image: tuple[int, ...]
) -> Network[Any]:
    """Build a network of given layers and operations; the last one computes its output."""
    builder = Builder(image=image, layers={layer.name: layer for layer in layers})
    output = "image"
    for name, operation, inputs in steps:
        output = builder.add(operation, *inputs.split(), name=name)
    return builder.finished(output)


# --- layers ---------------------------------------------------------------------------------------


def quantizer(book: Codebook, alpha: float) -> ActivationQuantizer:
    return ActivationQuantizer(codebook=book, alpha=np.float32(alpha))


def coded(
    name: str,
    shape: tuple[int, ...],
    book: Codebook,
    activation: ActivationQuantizer | None,
    codes: NDArray[np.integer] | int = 0,
) -> CodedLayer:
    """Return a layer of given codes, or of random ones from a seed."""
    if isinstance(codes, int):
        codes = np.random.default_rng(codes).integers(0, 1 << book.bits, shape)
    step = 0.5 / book.denominator
    return CodedLayer(
        name=name,
        shape=shape,
        stored=pack(codes.astype(np.uint16), book.bits),
        codebook=book,
        step=step,
        values=(book.levels * step).astype(np.float32),
        alpha=0.5,
        activation=activation,
    )


def weight_quantizer(method: str, magnitude_bits: int, alpha: np.float32) -> WeightQuantizer:
    """Return the rule by which training with a method projects weights."""
    if method == "uniform":
        book = uniform(magnitude_bits, signed=True)
        return WeightQuantizer(codebook=book, alpha=alpha, rule="round")
    codebook, candidates = {
        "apot": (apot, apot_candidates),
        "pot": (power_of_two, power_of_two_candidates),
    }[method]
    return WeightQuantizer(
        codebook=codebook(magnitude_bits, signed=True),
        alpha=alpha,
        rule="nearest",
        candidates=candidates(magnitude_bits),
    )


def affine(channels: int, seed: int) -> ScaleBias:
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.001, 0.01, channels).astype(np.float32)
    return ScaleBias(scale=scale, bias=rng.normal(size=channels).astype(np.float32))


# --- networks -------------------------------------------------------------------------------------


def every_operation() -> CodedNetwork:
    """Return a network with every operation, kind of layer and convolution attribute."""
    activations = [quantizer(apot(4, signed=False), 1.7), quantizer(uniform(3, signed=False), 0.9)]
    layers: list[Layer] = [
        coded("first", (6, 3, 3, 3), uniform(8, signed=True, denominator=127), None),
        coded("grouped", (9, 2, 3, 2), apot(3, signed=True), activations[0], 1),
        coded("wide", (5, 9, 1, 1), uniform(15, signed=True), activations[1], 2),
        FloatLayer(name="float", stored=np.full((4, 5, 2, 2), 0.01, dtype=np.float32)),
        coded("linear", (7, 32), apot(6, signed=True), activations[0], 3),
        coded("last", (4, 7), uniform(9, signed=True), None, 4),
        FloatLayer(name="end", stored=np.eye(4, dtype=np.float32)),
    ]
    grouped = Convolution(layer="grouped", padding=(2, 1), dilation=(2, 1), groups=3)
    steps: list[Step] = [
        ("first.sums", Convolution(layer="first", stride=(1, 2), padding=(1, 0)), "image"),
        ("first", affine(6, 0), "first.sums"),
        ("relu", Relu(), "first"),
        ("pool", MaxPool(kernel=(3, 2), stride=(2, 1), padding=(1, 0)), "relu"),
        ("grouped.levels", QuantizeActivation(layer="grouped"), "pool"),
        ("grouped.sums", grouped, "grouped.levels"),
        ("grouped", affine(9, 1), "grouped.sums"),
        ("twice", Add(), "grouped grouped"),
        ("wide.levels", QuantizeActivation(layer="wide"), "twice"),
        ("wide.sums", Convolution(layer="wide", stride=(1, 2)), "wide.levels"),
        ("wide", affine(5, 2), "wide.sums"),
        ("float.sums", Convolution(layer="float", padding=(1, 1)), "wide"),
        ("mean", AveragePool(kernel=(2, 2), stride=(3, 1)), "float.sums"),
        ("flat", Flatten(), "mean"),
        ("linear.levels", QuantizeActivation(layer="linear"), "flat"),
        ("linear.sums", Linear(layer="linear"), "linear.levels"),
        ("linear", affine(7, 3), "linear.sums"),
        ("last.sums", Linear(layer="last"), "linear"),
        ("last", affine(4, 4), "last.sums"),
        ("global", GlobalAveragePool(), "float.sums"),
        ("branch", Flatten(), "global"),
        ("sum", Add(), "last branch"),
        ("end", Linear(layer="end"), "sum"),
    ]
    return network_of(layers, steps, (3, 7, 16))


def single_linear(
    book: Codebook, codes: NDArray[np.integer], inputs: Codebook, alpha: float = 1
) -> CodedNetwork:
    """Return a network that quantizes an image and multiplies it with one matrix."""
    steps: list[Step] = [
        ("flat", Flatten(), "image"),
        ("levels", QuantizeActivation(layer="x"), "flat"),
        ("sums", Linear(layer="x"), "levels"),
        ("out", affine(codes.shape[0], 0), "sums"),
    ]
    layer = coded("x", codes.shape, book, quantizer(inputs, alpha), codes)
    return network_of([layer], steps, (1, 1, codes.shape[1]))


@cache
def small_network() -> CodedNetwork:
    """Encode a trained network with every operation, every kind of layer and a residual branch."""
    rng = np.random.default_rng(7)

    def weights(*shape: int) -> Floats:
        return rng.normal(size=shape).astype(np.float32)

    def layer(name: str, bits: int, *shape: int) -> SourceLayer:
        return SourceLayer(
            name=name,
            weight=weights(*shape),
            quantizer=weight_quantizer("apot", bits, np.float32(-1.7)),
            activation=quantizer(apot(bits, signed=False), 1.3),
        )

    layers = [
        SourceLayer(name="first", weight=weights(6, 3, 3, 3), quantizer=EightBitWeights()),
        layer("grouped", 2, 6, 3, 3, 3),
        layer("wide", 4, 5, 6, 1, 1),
        SourceLayer(name="float", weight=weights(3, 5, 1, 1), quantizer=None),
        SourceLayer(
            name="last",
            weight=weights(4, 3),
            quantizer=EightBitWeights(),
            bias=weights(4),
            # As in `grouped`: a codebook that two layers share.
            activation=quantizer(apot(2, signed=False), 0.7),
        ),
    ]
    batch_norm = ScaleBias(scale=weights(6).astype(float), bias=weights(6).astype(float))
    grouped = Convolution(layer="grouped", padding=(2, 1), dilation=(2, 1), groups=2)
    steps: list[Step] = [
        ("first", Convolution(layer="first", stride=(2, 1), padding=(1, 1)), "image"),
        ("norm", batch_norm, "first"),
        ("relu", Relu(), "norm"),
        ("pool", MaxPool(kernel=(2, 3), stride=(1, 2), padding=(1, 1)), "relu"),
        ("branch", grouped, "pool"),
        ("sum", Add(), "branch pool"),
        ("wide", Convolution(layer="wide"), "sum"),
        ("mean", AveragePool(kernel=(2, 2), stride=(1, 2)), "wide"),
        ("mixed", Convolution(layer="float"), "mean"),
        ("global", GlobalAveragePool(), "mixed"),
        ("flat", Flatten(), "global"),
        ("logits", Linear(layer="last"), "flat"),
    ]
    return encode_network(network_of(layers, steps, (3, 9, 8)))


# --- images ---------------------------------------------------------------------------------------


def random_images(network: CodedNetwork, count: int) -> Floats:
    """Return normally distributed images: float32 [count, channels, height, width]."""
    shape = (count, *network.input_shape)
    return np.random.default_rng(count).normal(size=shape).astype(np.float32)


def images_of(network: CodedNetwork, count: int) -> Floats:
    """Return random images; the last two hold only very large and only very small numbers."""
    images = random_images(network, count) * np.float32(2)
    images[-1], images[-2] = 100, -100
    return images
