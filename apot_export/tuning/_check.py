"""What a model must pass before tuning writes it: the oracle's integers, the same logits."""

from __future__ import annotations

import math

import numpy as np
import onnx
from numpy.typing import NDArray

from apot_export.artifacts.onnx_model.probe import integers_as_such, with_outputs
from apot_export.errors import TuningError
from apot_export.network import CodedNetwork
from apot_export.network.comparison import compare_oracle
from apot_export.runtimes.deployment import Deployment, Logits

_ORACLE_IMAGES = 2
_LOGIT_PIXELS = 8 * 3 * 224 * 224
_MOST_LOGIT_IMAGES = 32
_MOST_APART = 0.1
"""Share of the largest logit. Levels that float rounding moves change logits by less, kernels that
compute something else by more."""


def random_images(network: CodedNetwork, count: int, seed: int = 0) -> NDArray[np.float32]:
    """Return normally distributed images, float32 [count, C, H, W]."""
    shape = (count, *network.input_shape)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def require_oracles_integers(
    network: CodedNetwork, model: onnx.ModelProto, deployment: Deployment
) -> int:
    """Compare every value of a few images with the oracle's; return how many integers there were.

    Raises:
        TuningError: A level or accumulator differs, or a float by more than rounding.
    """
    images = random_images(network, _ORACLE_IMAGES)
    values = integers_as_such(model, deployment.values(with_outputs(model), images))
    found = compare_oracle(network, images, values)
    if found.mismatches or found.values_outside:
        raise TuningError(
            "The tuned model does not compute the network; nothing was written.",
            where="; ".join(found.offenders),
            expected="every integer of the oracle",
            got=f"{found.mismatches:,} of {found.compared:,} integers and {found.values_outside:,} "
            f"of {found.values_compared:,} floats differ",
            fix="report this with the names and versions of processor and runtime",
        )
    return found.compared


def require_same_logits(network: CodedNetwork, before: Logits, tuned: Logits, batch: int) -> None:
    """Compare the logits of the model as it will run with those of the model that was there.

    Runtimes fuse values that are not asked for, so a model with every value as an output is not
    quite the one that is timed.

    Raises:
        TuningError: The logits of most images are far apart.
    """
    fitting = _LOGIT_PIXELS // math.prod(network.input_shape)
    batches = max(1, -(-min(_MOST_LOGIT_IMAGES, fitting) // batch))
    apart: list[float] = []
    for seed in range(batches):
        images = random_images(network, batch, seed)
        first, second = before(images), tuned(images)
        largest = np.maximum(np.abs(first).max(axis=1), 1e-30)
        apart += (np.abs(first - second).max(axis=1) / largest).tolist()
    typical = float(np.median(apart))
    if not typical <= _MOST_APART:  # NaN, too
        raise TuningError(
            "The tuned model's logits are not those of the model that is there; "
            "nothing was written.",
            expected=f"a median difference of at most {_MOST_APART:.0%} of the largest logit",
            got=f"{typical:.1%}",
            fix="verify the export: apot-export verify",
        )
