"""Every side beside the original: what it shows value by value, and the logits of its runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from functools import cache, partial

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from apot_export.artifacts.onnx_model.probe import integers_as_such
from apot_export.network import CodedNetwork
from apot_export.network.comparison import compare_oracle
from apot_export.network.logits import ExpectedLogits, compare_logits, expected_logits
from apot_export.runtimes.torch_runtime import Executor
from apot_export.verification._verdict import logit_failures, proof_failures
from apot_export.verification.proof.levels import ForcedWalk
from apot_export.verification.proof.proofs import ORACLE_IMAGES, Proofs, prove_export
from apot_export.verification.report import LevelComparison, SideProof
from apot_export.verification.running.sides import OpenedSides, Values

_SMALL_BATCHES = (1, 2, 3)
_FEW = 6
"""Images that are run in small batches."""


def prove_all(
    module: nn.Module | None,
    graph: onnx.ModelProto,
    packed: CodedNetwork,
    sample: NDArray[np.float32],
    opened: OpenedSides,
    device: str,
    batches: Collection[int],
) -> tuple[Proofs, dict[str, SideProof]]:
    """Compare weights, the ONNX model's values, and what each side computes of a few images.

    Args:
        module: The original, on the CPU; None where there is none.
        graph: The ONNX model.
        packed: The network of the packed file.
        sample: float32 [N, C, H, W].
        opened: The sides.
        device: Where ONNX Runtime computes.
        batches: Images per batch of all runs that there will be.
    """
    found = opened.exactness.get(opened.of_model)
    algorithm = found.algorithm if found else None
    of_model = prove_export(module, graph, packed, sample, device, algorithm)
    proofs: dict[str, SideProof] = {}
    integers: dict[str, Callable[[], ExpectedLogits]] = {}
    for name in opened.executors:
        if name == opened.of_model:
            values = of_model.values
            proofs[name] = SideProof(levels=of_model.levels, accumulators=of_model.accumulators)
        else:
            values = integers_as_such(packed, opened.values[name](sample))
            values = {value: np.ascontiguousarray(array) for value, array in values.items()}
            proofs[name] = _proven(name, module, packed, sample, values)
        integers[name] = partial(_given, expected_logits(packed, sample, values))
    integers[""] = cache(lambda: expected_logits(packed, sample, opened.packed_values(sample)))
    for name, run in opened.executors.items():
        sizes = {*_SMALL_BATCHES, *batches, len(sample)} if name in opened.graphs else {_FEW}
        runs = {size: _in_batches(run, sample, size) for size in sorted(sizes)}
        others = [one for other, one in integers.items() if other != name]
        logits = compare_logits([integers[name], *others], runs)
        failures = (*proofs[name].failures, *logit_failures(name, logits))
        proofs[name] = dataclasses.replace(proofs[name], logits=logits, failures=failures)
    return dataclasses.replace(of_model, values={}), proofs


def _given(expected: ExpectedLogits) -> ExpectedLogits:
    return expected


def _proven(
    name: str,
    module: nn.Module | None,
    packed: CodedNetwork,
    sample: NDArray[np.float32],
    values: Values,
) -> SideProof:
    """Compare every value that a side shows."""
    fused = name == "native"
    accumulators = compare_oracle(packed, sample[:ORACLE_IMAGES], values, whose=name, fused=fused)
    levels = LevelComparison()
    if module is not None:
        levels = ForcedWalk(module, sample.shape[1:], values, whose=name).compare(sample)
    failures = proof_failures(levels, accumulators)
    return SideProof(
        levels=levels,
        accumulators=accumulators,
        failures=tuple(f"{name}: {failure}" for failure in failures),
    )


def _in_batches(run: Executor, sample: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Run a few of the first images, all of them in a batch that is as large, in batches of a size.

    Batches are filled with images from the start.
    """
    count = min(len(sample), max(size, _FEW))
    whole = -(-count // size) * size
    filled = np.resize(sample, (whole, *sample.shape[1:]))
    logits = [run(batch) for batch in np.split(filled, whole // size)]
    return np.concatenate(logits)[:count]
