"""The integer network on several backends: the same bits, or the first value that is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts.directory import INTEGER_MODEL, PACKED_MODEL
from apot_export.artifacts.onnx_model.probe import parse_model, whole_integers, with_outputs
from apot_export.artifacts.recorded import integer_of_manifest
from apot_export.datasets import Dataset
from apot_export.integer import IntegerNetwork, run_integer
from apot_export.integer.oracle import fixed_point
from apot_export.network import CodedNetwork
from apot_export.runtimes.interpreter import OpenProgram, compute_value
from apot_export.runtimes.onnx_runtime import Session, algorithms, open_session
from apot_export.verification._options import Progress
from apot_export.verification.report import BackendComparison

_RANDOM_IMAGES = 8

Run = Callable[[NDArray[Any]], NDArray[np.int64]]


def compare_backends(
    directory: Path,
    manifest: Mapping[str, Any],
    coded: CodedNetwork,
    names: Sequence[str],
    images: Dataset,
    batch_size: int,
    progress: Progress,
) -> BackendComparison:
    """Run the integer network of an export on every backend, on images and on random inputs.

    Args:
        directory: The export.
        manifest: Its manifest.
        coded: The network of its packed file.
        names: See `parse_backends`; the others are compared with the first one.
        images: What to run on.
        batch_size: Images per batch.
        progress: Called with (what, done, total).

    Raises:
        ExportError: The export has no integer network.
        DeviceError: A backend is not there.
    """
    network = integer_of_manifest(manifest, coded)
    packed = (directory / PACKED_MODEL).read_bytes()
    model = (directory / INTEGER_MODEL).read_bytes()
    runs = {name: _runner(name, network, model, packed) for name in names}
    differing = dict.fromkeys(names[1:], 0)
    hits = done = 0
    first: dict[str, NDArray[Any]] = {}
    for inputs, labels in _inputs(network, images, batch_size):
        logits = {name: run(inputs) for name, run in runs.items()}
        expected = logits[names[0]]
        for name in names[1:]:
            wrong = (logits[name] != expected).reshape(len(expected), -1).any(axis=1)
            differing[name] += int(wrong.sum())
            if wrong.any():
                first.setdefault(name, inputs[np.argmax(wrong)][None])
        if labels is not None:
            if images.labelled:
                hits += int((expected.argmax(axis=1) == labels).sum())
            done += len(labels)
            progress("backends", done, len(images))
    places = {
        name: _first_difference((name, names[0]), network, coded, model, image)
        for name, image in first.items()
    }
    return BackendComparison(
        names=tuple(names),
        images=done,
        random_images=_RANDOM_IMAGES,
        differing=differing,
        first_difference=places,
        top1=hits / done if images.labelled else None,
        fraction_bits=network.fraction_bits,
    )


def _inputs(
    network: IntegerNetwork, images: Dataset, batch_size: int
) -> Iterator[tuple[NDArray[Any], NDArray[np.int64] | None]]:
    """Yield random inputs without labels, then all images that can be read."""
    yield _random_inputs(network), None
    ranges = [
        range(start, min(start + batch_size, len(images)))
        for start in range(0, len(images), batch_size)
    ]
    for batch in images.prefetched(ranges, 1):
        if len(batch.labels):
            pixels = network.pixels
            inputs = batch.images if pixels is None else pixels.of_images(batch.images)
            yield inputs, batch.labels


def _random_inputs(network: IntegerNetwork) -> NDArray[Any]:
    generator = np.random.default_rng(0)
    shape = (_RANDOM_IMAGES, *network.input_shape)
    if network.pixels is not None:
        return generator.integers(0, 256, shape, dtype=np.uint8)
    images = generator.normal(0, 3, shape).astype(np.float32)
    images[0], images[1] = np.finfo(np.float32).max, np.finfo(np.float32).min
    return images


def _runner(name: str, network: IntegerNetwork, model: bytes, packed: bytes) -> Run:
    if name == "numpy":
        return lambda inputs: run_integer(network, inputs)
    if name == "c":
        program = OpenProgram(packed)
        return lambda inputs: program.run(fixed_point(network, inputs))
    session = _exact_session(name.removeprefix("ort-"), network, model)
    return lambda inputs: np.asarray(session.run_all(inputs)["logits"])


def _exact_session(device: str, network: IntegerNetwork, model: bytes) -> Session:
    """Open a session with the device's first algorithm that gives numpy's bits; else the first."""
    ways = algorithms(device)
    if len(ways) > 1:
        inputs = _random_inputs(network)
        expected = run_integer(network, inputs)
        for algorithm in ways:
            session = open_session(model, device, algorithm=algorithm)
            if (session.run_all(inputs)["logits"] == expected).all():
                return session
    return open_session(model, device)


def _first_difference(
    names: tuple[str, str],
    network: IntegerNetwork,
    coded: CodedNetwork,
    model: bytes,
    image: NDArray[Any],
) -> str:
    """Return the first value, in order of computation, that two backends compute differently."""
    one, other = (_all_values(name, network, coded, model, image) for name in names)
    for name in (node.name for node in network.nodes):
        if name in one and name in other and (one[name] != other[name]).any():
            return name
    return "the packed file's program or the model, which are not those of the network"


def _all_values(
    name: str, network: IntegerNetwork, coded: CodedNetwork, model: bytes, image: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """Return every value of the integer network that a backend computes, by name."""
    if name == "numpy":
        seen: dict[str, NDArray[Any]] = {}
        run_integer(network, image, observe=seen.__setitem__)
        return seen
    if name == "c":
        return {
            node.name: compute_value(coded, network, node.name, image) for node in network.nodes
        }
    session = open_session(with_outputs(parse_model(model)), name.removeprefix("ort-"))
    seen = whole_integers(session.run_all(image))
    return {**seen, network.output: seen["logits"]}
