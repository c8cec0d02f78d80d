"""What a tuned model must pass before it is written: the oracle's integers, the same logits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from apot_export.errors import TuningError
from apot_export.network import CodedNetwork
from apot_export.runtimes.deployment import Logits, Place

_ORACLE_IMAGES = 2
_LOGIT_PIXELS = 8 * 3 * 224 * 224
_MOST_LOGIT_IMAGES = 32
_UNLIKE = 0.1
"""Share of the largest logit. Levels that float rounding moves change logits by less, kernels that
compute something else by more."""
_SEED = 0


def random_images(network: CodedNetwork, count: int, seed: int = _SEED) -> NDArray[np.float32]:
    """Return normally distributed images, float32 [count, C, H, W]."""
    shape = (count, *network.input_shape)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def require_oracles_integers(network: CodedNetwork, model: onnx.ModelProto, place: Place) -> int:
    """Compare every value of a few images with the oracle's; return how many integers there were.

    Args:
        network: The network of the packed file.
        model: The ONNX model.
        place: What runs it.

    Raises:
        TuningError: A level or accumulator is another, or a float is beyond its rounding.
    """
    from apot_export.artifacts.onnx_model.probe import integers_as_such, with_outputs
    from apot_export.network.comparison import compare_oracle

    images = random_images(network, _ORACLE_IMAGES)
    values = integers_as_such(model, place.values(with_outputs(model), images))
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

    Runtimes fuse what nobody asks for, so that a model with every value as an output is not quite
    the one that is timed.

    Raises:
        TuningError: The logits of most images are far apart.
    """
    fitting = _LOGIT_PIXELS // math.prod(network.input_shape)
    batches = max(1, -(-min(_MOST_LOGIT_IMAGES, fitting) // batch))
    apart: list[Any] = []
    for seed in range(batches):
        images = random_images(network, batch, seed)
        first, second = before(images), tuned(images)
        largest = np.abs(first).max(axis=1)
        apart += list(np.abs(first - second).max(axis=1) / np.maximum(largest, 1e-30))
    typical = float(np.median(apart))
    if not typical <= _UNLIKE:  # NaN, too
        raise TuningError(
            "The tuned model's logits are not those of the model that is there; "
            "nothing was written.",
            expected=f"a median difference of at most {_UNLIKE:.0%} of the largest logit",
            got=f"{typical:.1%}",
            fix="verify the export: apot-export verify",
        )
