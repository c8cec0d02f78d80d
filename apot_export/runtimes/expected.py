"""What an export's models give for sample inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts.sample import Sample
from apot_export.network import CodedNetwork, oracle
from apot_export.network.graph import products
from apot_export.runtimes.onnx_runtime import Session, open_session

_ORACLE_PRODUCTS = 100_000_000
"""Products of activations and weights that the oracle computes in about a second."""


def with_expected(
    sample: Sample, network: CodedNetwork, model: bytes, integer: bytes | None
) -> Sample:
    """Return samples with the logits that the oracle and ONNX Runtime compute.

    Args:
        sample: The inputs.
        network: The coded network.
        model: Its float ONNX model.
        integer: The model of its integer network; None without one.

    Raises:
        ExportError: ONNX Runtime does not run a model.
    """
    few = min(len(sample), _ORACLE_PRODUCTS // max(1, products(network)))
    shape = (few, *network.shapes[network.output])
    of_oracle = oracle.run(network, sample.inputs[:few]) if few else np.zeros(shape, np.float32)
    return replace(
        sample,
        logits=_session(model).run(sample.inputs),
        oracle_logits=of_oracle,
        integer_logits=None if integer is None else integer_logits(sample, integer),
    )


def _session(model: bytes) -> Session:
    """Open a model so that it takes little memory; more threads would add up in another order."""
    return open_session(model, "cpu", threads=1, folded=False)


def integer_logits(sample: Sample, model: bytes) -> NDArray[np.int64]:
    """Return what an integer model gives: int64 [N, ...]."""
    session = _session(model)
    takes_pixels = session.session.get_inputs()[0].type == "tensor(uint8)"
    inputs = sample.inputs
    if takes_pixels and sample.images is not None:
        inputs = np.ascontiguousarray(sample.images.transpose(0, 3, 1, 2))
    (logits,) = session.run_all(inputs).values()
    return np.asarray(logits, np.int64)
