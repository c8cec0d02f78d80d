"""A model of dynamic size, proven at another size than the network's own."""

from __future__ import annotations

import numpy as np
from torch import nn

from apot_export.artifacts.onnx_model.probe import integers_as_such
from apot_export.errors import ExportError
from apot_export.network import CodedNetwork, GlobalAveragePool
from apot_export.network.comparison import AccumulatorComparison, compare_oracle
from apot_export.network.sizes import at_another_size, of_any_size
from apot_export.original.any_size import with_adaptive_pools
from apot_export.runtimes.onnx_runtime import Session
from apot_export.verification._verdict import proof_failures
from apot_export.verification.proof.levels import compare_levels
from apot_export.verification.report import LevelComparison, SizeComparison

_IMAGES = 2


def compare_another_size(
    module: nn.Module | None, session: Session, packed: CodedNetwork
) -> SizeComparison:
    """Compare every value that random images of another size give, as at the network's own size.

    Args:
        module: The original, on the CPU; None to compare the two artifacts with each other alone.
        session: Of the ONNX model, with all values as outputs.
        packed: The network of the packed file.
    """
    of_any = of_any_size(packed)
    other = at_another_size(of_any)
    shape = (_IMAGES, *other.input_shape)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    accumulators, levels = AccumulatorComparison(), LevelComparison()
    try:
        exported = integers_as_such(other, session.run_all(images))
        accumulators = compare_oracle(other, images, exported)
        if module is not None:
            averages = {
                node.name for node in of_any.nodes if isinstance(node.operation, GlobalAveragePool)
            }
            wide = with_adaptive_pools(module, averages)
            levels = compare_levels(wide, images, exported)
        failures = proof_failures(levels, accumulators)
    except ExportError as error:
        failures = [f"the export does not run: {error.got}"]
    except (RuntimeError, ValueError) as error:
        failures = [f"the original does not run: {error}"]
    size = "{} x {}".format(*other.input_shape[1:])
    return SizeComparison(
        size=size,
        levels=levels,
        accumulators=accumulators,
        failures=tuple(f"on images of {size}, {failure}" for failure in failures),
    )
