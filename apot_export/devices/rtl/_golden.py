"""What a testbench compares: the inputs of a layer, and every word that the engine must make."""

from __future__ import annotations

import numpy as np

from apot_export.devices.rtl._memories import memory_text
from apot_export.devices.rtl._plan import STORE, LayerPlan
from apot_export.devices.vectors import LayerVectors, hexadecimal
from apot_export.integer.network import Integers
from apot_export.network.oracle import windows


def golden_files(plan: LayerPlan, vectors: LayerVectors, partial: int) -> dict[str, bytes]:
    """Return the numbers of a testbench by the end of their names.

    Args:
        plan: The layer.
        vectors: Its numbers.
        partial: Words of results of an image whose partial sums are written, too.
    """
    found = vectors.outputs.get(plan.records.node, vectors.sums)
    growing = np.concatenate([_partial_sums(plan, image, partial) for image in vectors.inputs])
    files = {
        "inputs": hexadecimal(vectors.inputs.reshape(-1, 1), plan.x_bits),
        "partial_sums": hexadecimal(growing, plan.sum_bits),
        "sums": hexadecimal(_in_order(plan, vectors.sums), plan.sum_bits),
    }
    if plan.records.mode != STORE:
        files["results"] = hexadecimal(_in_order(plan, found), plan.records.result_bits)
    return {f".{name}.mem": memory_text(listed).encode() for name, listed in files.items()}


def _in_order(plan: LayerPlan, values: Integers) -> Integers:
    """Arrange [N, outputs, ...] as the engine makes it: [words, lanes]."""
    rows = (plan.by_lanes(image.reshape(image.shape[0], -1)) for image in values)
    return np.concatenate([words.reshape(-1, plan.lanes) for words in rows])


def _partial_sums(plan: LayerPlan, image: Integers, words: int) -> Integers:
    """Return the sums after each product of the first words of results, [steps, lanes]."""
    geometry = plan.geometry
    taps = windows(
        image.reshape(1, -1, *geometry.extent),
        geometry.kernel,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
    )[0]
    rows = taps.transpose(1, 2, 0, 3, 4).reshape(geometry.positions, geometry.groups, -1)
    weights = plan.by_lanes(plan.codebook.levels[plan.codes])
    sums = []
    for word in range(min(words, len(weights) * geometry.positions)):
        block, position = divmod(word, geometry.positions)
        row = rows[position, block // plan.blocks]
        sums.append(np.cumsum(row[:, None] * weights[block], axis=0))
    return np.concatenate(sums) if sums else np.zeros((0, plan.lanes), dtype=np.int64)
