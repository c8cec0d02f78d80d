"""Whether a runtime keeps a network's integers: its products, probed before the first image.

Libraries choose the algorithm of a convolution by its shape, and some algorithms round. So every
shape of convolution and matrix product that a network has is computed once from known numbers. Sums
of levels must be the integers that numpy computes, bit for bit. Sums of floats must lie within
`FLOAT_BOUND` of those in float64, which float32 keeps with room to spare and TF32 does not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts.onnx_model.probe import GIVEN, tf32_exact, values_from
from apot_export.errors import DeviceError, ExportError
from apot_export.network import CodedLayer, CodedNetwork, Node, oracle
from apot_export.network import operations as op
from apot_export.network.comparison import LOGITS
from apot_export.runtimes.onnx_runtime import Session, algorithms, open_session

_Operation = op.Convolution | op.Linear

FLOAT_BOUND = 2.0**-15
"""Largest error of a sum of float products, in units of the root of their squares' sum.

Of 27 to 4,608 products of normal numbers, float32 errs by less than half of it, even where it adds
them one after the other, and TF32 by four times as much and more: see the tests.
"""


@dataclass(frozen=True, kw_only=True)
class Exactness:
    """What a provider's products were worth, and how it has to be set for that."""

    shapes: int
    """Products of different shapes, each probed once."""
    integers: int = 0
    """Sums of levels that were compared."""
    largest_error: float = 0.0
    """Of sums of floats, in units of what is allowed."""
    algorithm: Mapping[str, str] = field(default_factory=dict)
    """Options of the provider that were chosen, of its `algorithms`."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """What was wrong with algorithms that come earlier in the order, by their options."""
    wrong: str | None = None
    """What is wrong with the model itself, on the CPU too."""

    @property
    def name(self) -> str:
        """Name of the algorithm; empty where the provider has one way alone."""
        small = self.algorithm.get("cudnn_conv_use_max_workspace") == "0"
        name = self.algorithm.get("cudnn_conv_algo_search", "")
        return f"{name} with a small workspace" if small else name

    def says(self) -> str:
        """Say in a sentence what was found, and how the algorithm was chosen."""
        if self.wrong:
            return self.wrong
        refused = [f"; {name} does not: {wrong}" for name, wrong in self.refused.items()]
        return (
            f"{self.name or 'the provider'} keeps {self.integers:,} integers of {self.shapes} "
            f"shapes, and floats (largest error {self.largest_error:.1%} of its bound)"
            f"{''.join(refused)}"
        )


def find_exact(
    model: Any,
    network: CodedNetwork,
    device: str,
    *,
    batches: Collection[int] = (2,),
    threads: int = 0,
) -> Exactness:
    """Probe a device's algorithms in order; return the first that keeps a network's numbers.

    Args:
        model: The ONNX model, parsed.
        network: The network that it computes.
        device: "cpu", "cuda" or "cuda:1".
        batches: Images per batch, all that there will be: libraries choose algorithms by them.
        threads: Intra-operator threads; 0 for ONNX Runtime's choice.

    Returns:
        What was found. Something is `wrong` where the CPU does not keep them either: then the model
        is not one of the network.

    Raises:
        DeviceError: None keeps them, though the CPU does; or the provider is missing.
    """
    probe = Probe(model=model, network=network)
    refused: dict[str, str] = {}
    tf32 = tf32_exact(model)
    for algorithm in algorithms(device):
        found = probe.on(device, algorithm, batches=batches, threads=threads, tf32=tf32)
        if found.wrong is None:
            return replace(found, refused=refused)
        refused[found.name] = found.wrong
    if device == "cpu" or probe.on("cpu", {}, threads=threads).wrong is not None:
        return found
    raise DeviceError(
        "No convolution algorithm of this device keeps the network's numbers.",
        where=device,
        got="; ".join(f"{name}: {wrong}" for name, wrong in refused.items()),
        fix="use --device cpu; another version of cuDNN may have algorithms that do",
    )


@dataclass(frozen=True, kw_only=True)
class _Product:
    """One product, what it is given, and what it has to give."""

    value: str
    source: str
    given: NDArray[Any]
    """[2, ...]: whole numbers in float64, or floats."""
    expected: NDArray[np.float64]
    allowed: NDArray[np.float64] | None
    """Largest errors; None where there are none."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Every shape of product of a network, computed by a model of it."""

    model: Any
    """The ONNX model, parsed."""
    network: CodedNetwork

    @cached_property
    def products(self) -> list[_Product]:
        """What is computed, what is given and what is expected."""
        (image,) = (value.name for value in self.model.graph.input)
        names = {self.network.input: image, self.network.output: LOGITS}
        return [
            _product(self.network, node, operation, names)
            for node, operation in _of_different_shapes(self.network)
        ]

    @cached_property
    def content(self) -> bytes:
        """The products alone, as a model."""
        return values_from(self.model, {one.value: one.source for one in self.products})

    def on(
        self,
        device: str,
        algorithm: Mapping[str, str],
        *,
        batches: Collection[int] = (2,),
        threads: int = 0,
        tf32: bool = False,
    ) -> Exactness:
        """Compute all products on a device with one of its `algorithms`, and compare them."""
        found = Exactness(shapes=len(self.products), algorithm=algorithm)
        try:
            session = open_session(
                self.content,
                device,
                threads=threads,
                tf32=tf32,
                algorithm=algorithm,
            )
            for batch in batches:
                for product, image, sums in self._computed(session, batch):
                    found = _with(found, product, image, sums)
        except ExportError as error:
            found = replace(found, wrong=error.got or error.what)
        return found

    def _computed(
        self, session: Session, batch: int
    ) -> Iterator[tuple[_Product, int, NDArray[Any]]]:
        """Yield the sums of every product, with the number of the image that they belong to."""
        inputs = {value.name: value for value in session.session.get_inputs()}
        sizes = [value.shape[0] for value in inputs.values()]
        count = next((size for size in sizes if isinstance(size, int)), batch)
        for first in range(0, 2, count):
            feeds = {}
            for product in self.products:
                name, shape = product.source + GIVEN, product.given.shape[1:]
                images = np.resize(product.given[first:], (count, *shape))
                feeds[name] = images.astype(_dtype(inputs[name].type))
            found = session.run_named(feeds)
            for product in self.products:
                for turn in range(min(count, 2)):
                    yield product, first + turn, found[product.value][turn::2]


def _with(found: Exactness, product: _Product, image: int, sums: NDArray[Any]) -> Exactness:
    """Return what is known with some more sums."""
    error = np.abs(sums.astype(np.float64) - product.expected[image])
    if product.allowed is None:
        differing = int((error != 0).sum())
        found = replace(found, integers=found.integers + error.size)
        says = f"{differing:,} of {error.size:,} integers of {product.value} differ"
    else:
        ratio = float((error / product.allowed[image]).max())
        differing = not ratio <= 1  # what is no number is wrong, too
        found = replace(found, largest_error=max(found.largest_error, ratio))
        says = f"sums of {product.value} err by {ratio:,.1f} times what is allowed"
    return replace(found, wrong=says) if differing and found.wrong is None else found


def _dtype(kind: str) -> np.dtype[Any]:
    """Return numpy's type of one of ONNX Runtime's, as tensor(uint8)."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(name, name))


# --- what is given, and what is expected ----------------------------------------------------------


def _of_different_shapes(network: CodedNetwork) -> list[tuple[Node, _Operation]]:
    """Return a node for each shape of product: that of the largest weights."""
    chosen: dict[Any, tuple[float, tuple[Node, _Operation]]] = {}
    for node in network.nodes:
        operation = node.operation
        if isinstance(operation, (op.Convolution, op.Linear)):
            weights, levels = _weights_and_levels(network, operation)
            geometry = replace(operation, layer="")
            shape = (geometry, weights.shape, network.shapes[node.inputs[0]], levels is None)
            size = float(np.abs(weights).sum())
            if shape not in chosen or size > chosen[shape][0]:
                chosen[shape] = size, (node, operation)
    return [product for _, product in chosen.values()]


def _weights_and_levels(
    network: CodedNetwork, operation: _Operation
) -> tuple[NDArray[np.float64], NDArray[np.int32] | None]:
    """Return a layer's weights, and the levels of its input; None where that is floats."""
    layer = network.layers[operation.layer]
    if not isinstance(layer, CodedLayer):
        return layer.weights().astype(np.float64), None
    quantized = layer.activation is not None
    table = network.input_quantizer(operation.layer).table if quantized else None
    return layer.levels().astype(np.float64), table


def _product(
    network: CodedNetwork, node: Node, operation: _Operation, names: Mapping[str, str]
) -> _Product:
    """Return a node's product with two images: one at random, one that makes sums large."""
    weights, levels = _weights_and_levels(network, operation)
    shape = network.shapes[node.inputs[0]]
    generator = np.random.default_rng(0)
    if levels is None:
        given = generator.normal(0, 1, (2, *shape)).astype(np.float32)
        squares = _sums(operation, given.astype(np.float64) ** 2, weights**2)
        allowed = FLOAT_BOUND * np.sqrt(squares) + np.finfo(np.float32).tiny
    else:
        given = np.stack([generator.choice(levels, shape), _largest(levels, weights, shape)])
        allowed = None
    return _Product(
        value=names.get(node.name, node.name),
        source=names.get(node.inputs[0], node.inputs[0]),
        given=given,
        expected=_sums(operation, given, weights),
        allowed=allowed,
    )


def _largest(
    table: NDArray[np.int32], weights: NDArray[np.float64], shape: Sequence[int]
) -> NDArray[np.int32]:
    """Return levels of a shape that add up to what the network's weights can add up to.

    They are the largest wherever the weight of one output is positive (or negative, if that makes
    more), repeated over the image.
    """
    flat = weights.reshape(len(weights), -1)
    sums = np.stack([np.maximum(flat, 0).sum(axis=1), np.maximum(-flat, 0).sum(axis=1)])
    negative, output = np.unravel_index(int(sums.argmax()), sums.shape)
    chosen = -weights[output] if negative else weights[output]
    levels = np.where(chosen > 0, table.max(), table.min())
    repeats = [-(-wanted // there) for wanted, there in zip(shape, levels.shape, strict=True)]
    return np.tile(levels, repeats)[tuple(slice(size) for size in shape)]


def _sums(
    operation: _Operation, images: NDArray[Any], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return sums of products in float64, which holds integers as large as these."""

    def product(rows: NDArray[Any], chosen: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(rows.astype(np.float64) @ chosen.T, dtype=np.float64)

    if isinstance(operation, op.Linear):
        return product(images, weights)
    each = [oracle.convolve(operation, image[None], weights, product) for image in images]
    return np.concatenate(each)
