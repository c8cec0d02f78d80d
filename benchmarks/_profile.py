"""Where the time of a compiled network goes."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apot_export.network.oracle import require_images
from apot_export.runtimes.native import FastNetwork


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Time of one step."""

    name: str
    """The node that it starts with."""
    seconds: float
    """Median of the whole step."""
    projection_seconds: float
    """What it takes less when it projects nothing onto levels; noise can make it negative."""


def profile(network: FastNetwork, image: NDArray[np.float32], *, rounds: int) -> list[StepTime]:
    """Time every step of a network with and without its projections, in turn.

    Args:
        network: A compiled network.
        image: One image, float32 [1, channels, height, width].
        rounds: Runs of each.

    Raises:
        DatasetError: The image does not have the network's input shape.
    """
    require_images(image, network.input_shape)
    pixels = np.ascontiguousarray(image[0], dtype=np.float32)
    # Steps without projections leave old levels behind: the same work, if not results.
    both = network, _without_projections(network)
    for each in both:
        each.run(image)
    times = np.empty((2, rounds, len(network.steps)))
    for turn in range(rounds):
        for kind, each in enumerate(both):
            for index in range(len(network.steps)):
                started = time.perf_counter()
                each.run_step(index, pixels)
                times[kind, turn, index] = time.perf_counter() - started
    whole, without = np.median(times, axis=1)
    return [
        StepTime(name=name, seconds=float(all_), projection_seconds=float(all_ - rest))
        for name, all_, rest in zip(network.steps, whole, without, strict=True)
    ]


def _without_projections(network: FastNetwork) -> FastNetwork:
    program = network._program  # noqa: SLF001 - a plan that no network has
    steps = type(program.steps).from_buffer_copy(program.steps)
    for step in steps:
        step.finish.projections = step.after.projections = 0
    return FastNetwork(
        network._network,  # noqa: SLF001
        dataclasses.replace(program, steps=steps),
        network._library,  # noqa: SLF001
        network.kernels,
        network.threads,
    )
