"""Random small coded networks that have an integer form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apot_export.encoding.encode import encode_network
from apot_export.network import (
    ActivationQuantizer,
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
    Network,
    Node,
    Operation,
    Relu,
    ScaleBias,
    SourceLayer,
    Upsample,
    WeightQuantizer,
)
from apot_export.network.codebook import (
    apot,
    apot_candidates,
    power_of_two,
    power_of_two_candidates,
    uniform,
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a random network is made of."""

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


def quantizers(
    recipe: Recipe, generator: np.random.Generator
) -> tuple[WeightQuantizer, ActivationQuantizer]:
    magnitude = recipe.weight_bits - 1
    alpha = np.float32(generator.uniform(0.5, 2.5) * generator.choice([-1, 1]))
    threshold = np.float32(generator.uniform(0.3, 3.0))
    if recipe.method == "uniform" or recipe.weight_bits == 2:
        weights = WeightQuantizer(
            codebook=uniform(magnitude, signed=True), alpha=alpha, rule="round"
        )
    elif recipe.method == "pot":
        weights = WeightQuantizer(
            codebook=power_of_two(magnitude, signed=True),
            alpha=alpha,
            rule="nearest",
            candidates=power_of_two_candidates(magnitude),
        )
    else:
        weights = WeightQuantizer(
            codebook=apot(magnitude, signed=True),
            alpha=alpha,
            rule="nearest",
            candidates=apot_candidates(magnitude),
        )
    bits = recipe.activation_bits
    if recipe.method == "uniform":
        book = uniform(bits, signed=False)
    else:
        book = (power_of_two if recipe.method == "pot" else apot)(bits, signed=False)
    return weights, ActivationQuantizer(codebook=book, alpha=threshold)


def random_network(recipe: Recipe) -> CodedNetwork:
    """Build a network with every operation: a residual block, pools, a join, an upsampling."""
    generator = np.random.default_rng(recipe.seed)

    def normal(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return generator.normal(0, 1, shape).astype(np.float32)

    layers: dict[str, SourceLayer] = {
        "first": SourceLayer(name="first", weight=normal(4, 3, 3, 3), quantizer=EightBitWeights())
    }
    shapes = {"block": (4, 4 // recipe.groups, 3, 3), "narrow": (6, 8, 1, 1)}
    for name, shape in shapes.items():
        weights, activation = quantizers(recipe, generator)
        layers[name] = SourceLayer(
            name=name, weight=normal(*shape), quantizer=weights, activation=activation
        )
    layers["last"] = SourceLayer(
        name="last", weight=normal(5, 6), quantizer=EightBitWeights(), bias=normal(5)
    )

    def norm(channels: int) -> ScaleBias:
        gains = generator.normal(0, recipe.gain, channels)
        return ScaleBias(scale=gains, bias=generator.normal(0, 0.5, channels))

    block = Convolution(
        layer="block",
        stride=(1, 1),
        padding=(recipe.dilation, recipe.dilation),
        dilation=(recipe.dilation, recipe.dilation),
        groups=recipe.groups,
    )
    graph: list[tuple[str, Operation, tuple[str, ...]]] = [
        ("conv", Convolution(layer="first", stride=(recipe.stride, 1), padding=(1, 1)), ("image",)),
        ("bn", norm(4), ("conv",)),
        ("relu", Relu(), ("bn",)),
        ("pool", MaxPool(kernel=(3, 2), stride=(1, 2), padding=(1, 1)), ("relu",)),
        ("branch", block, ("pool",)),
        ("branch.bn", norm(4), ("branch",)),
        ("sum", Add(), ("branch.bn", "pool")),
        ("clip", Clip(minimum=0.0, maximum=4.0), ("sum",)),
        ("up", Upsample(scale=(2, 1)), ("clip",)),
        ("again", Upsample(scale=(2, 1)), ("pool",)),
        ("join", Concat(), ("up", "again")),
        ("mean", AveragePool(kernel=(2, 1), stride=(1, 1)), ("join",)),
        ("narrow", Convolution(layer="narrow"), ("mean",)),
        ("narrow.bn", norm(6), ("narrow",)),
        ("narrow.relu", Relu(), ("narrow.bn",)),
        ("global", GlobalAveragePool(), ("narrow.relu",)),
        ("flat", Flatten(), ("global",)),
        ("logits", Linear(layer="last"), ("flat",)),
    ]
    return encode_network(
        Network[SourceLayer](
            nodes=tuple(Node(name=n, inputs=sources, operation=op) for n, op, sources in graph),
            layers=layers,
            input="image",
            input_shape=(3, recipe.size, recipe.size),
            output="logits",
        )
    )


def multi_bit_network(seed: int, terms: int, *, position_major: bool) -> CodedNetwork:
    """Build a network of sign vectors, one group of them without any."""
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
    graph: list[tuple[str, Operation, tuple[str, ...]]] = [
        ("conv", Convolution(layer="one", padding=(1, 1)), ("image",)),
        ("relu", Relu(), ("conv",)),
        ("global", GlobalAveragePool(), ("relu",)),
        ("flat", Flatten(), ("global",)),
        ("logits", Linear(layer="two"), ("flat",)),
    ]
    source = Network[SourceLayer](
        nodes=tuple(Node(name=n, inputs=sources, operation=op) for n, op, sources in graph),
        layers={one.name: one for one in layers},
        input="image",
        input_shape=(3, 5, 5),
        output="logits",
    )
    return encode_network(source, alpha_terms=terms)
