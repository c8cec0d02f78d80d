"""Choosing the fraction bits of an integer network, and what its export says of it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from apot_export.artifacts.onnx_model import build_integer_model, serialise
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.conversion.sample import images_at_hand
from apot_export.datasets import Dataset, kind_of
from apot_export.errors import BoundError, IntegerError
from apot_export.integer import IntegerNetwork, Pixels, lower, operation_counts
from apot_export.integer.fixed_point import LARGEST_FRACTION_BITS
from apot_export.network import CodedNetwork
from apot_export.runtimes.onnx_runtime import open_session
from apot_export.runtimes.torch_runtime import torch_executor, twin_executor

_CALIBRATION_IMAGES = 200
_CALIBRATION_BATCH = 50
_SMALLEST_TRIED = 4
_TOOL = "apot-export calibration"


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerForm:
    """An integer network and where its fraction bits come from."""

    network: IntegerNetwork
    fraction_bits_from: str
    """"option", "calibration" or "largest provable"."""
    agreement: float | None
    """With the float export, on the calibration images."""
    yardstick: float | None
    """The original's agreement with itself, on the same images; None without an original."""

    def to_json(self) -> dict[str, Any]:
        """Return the form that manifests store."""
        network = self.network
        counts = operation_counts(network)
        return {
            "fraction_bits": network.fraction_bits,
            "fraction_bits_from": self.fraction_bits_from,
            "agreement": self.agreement,
            "yardstick": self.yardstick,
            "input_bits": network.input_bits,
            "input": "float32" if network.pixels is None else "uint8",
            "normalisation": None if network.pixels is None else network.pixels.to_json(),
            "logit_scale": str(network.logit_scale),
            "operations": counts,
            "ranges": {
                node.name: [node.interval.low, node.interval.high] for node in network.nodes
            },
        }


def integer_form(
    coded: CodedNetwork,
    float_model: onnx.ModelProto,
    choices: IntegerChoices,
    preprocessing: str,
    module: nn.Module | None,
) -> IntegerForm:
    """Lower a coded network with the fraction bits that were given, or that images call for.

    Args:
        coded: The network.
        float_model: Its ONNX model.
        choices: What the user says of the integer form.
        preprocessing: Of calibration images: see `Family.preprocessing`.
        module: The original; None where it is not there: then fraction bits suffice only where the
            integer network names the class of the float one for all calibration images.

    Raises:
        BoundError: A value could overflow with these fraction bits, or with any.
        IntegerError: The network has no integer form.
        DatasetError: The folder of calibration images is none, or the normalisation of pixels is
            not known.
    """
    pixels = _pixels(coded, preprocessing) if choices.pixels else None
    if choices.fraction_bits is not None:
        network = lower(
            coded,
            fraction_bits=choices.fraction_bits,
            input_bits=choices.input_bits,
            pixels=pixels,
        )
        return IntegerForm(
            network=network, fraction_bits_from="option", agreement=None, yardstick=None
        )
    largest = _largest_provable(coded, choices, pixels)
    images = images_at_hand(coded, preprocessing, choices.data)
    if images is not None:
        images = images.first(_CALIBRATION_IMAGES)
        found = _calibrated(coded, float_model, module, choices, pixels, images, largest)
        if found is not None:
            return found
    return IntegerForm(
        network=largest, fraction_bits_from="largest provable", agreement=None, yardstick=None
    )


def _pixels(coded: CodedNetwork, preprocessing: str) -> Pixels:
    classes = coded.shapes[coded.output][0]
    kind = kind_of(None, coded.input_shape, classes)
    normalisation = kind.normalisation(preprocessing)
    if normalisation is None:
        raise IntegerError(
            "The network's dataset has no pixels of 8 bits.",
            where=kind.name,
            fix="leave out --input",
        )
    return Pixels(mean=normalisation.mean, std=normalisation.std)


def _largest_provable(
    coded: CodedNetwork, choices: IntegerChoices, pixels: Pixels | None
) -> IntegerNetwork:
    for bits in range(LARGEST_FRACTION_BITS, 0, -1):
        with suppress(BoundError):
            return lower(coded, fraction_bits=bits, input_bits=choices.input_bits, pixels=pixels)
    return lower(coded, fraction_bits=0, input_bits=choices.input_bits, pixels=pixels)


def _calibrated(
    coded: CodedNetwork,
    float_model: onnx.ModelProto,
    module: nn.Module | None,
    choices: IntegerChoices,
    pixels: Pixels | None,
    images: Dataset,
    largest: IntegerNetwork,
) -> IntegerForm | None:
    """Return the form of the fewest fraction bits that agree as often as the original with itself.

    Without an original they must agree on all images.
    """
    batches = [batch for batch, _ in images.batches(_CALIBRATION_BATCH)]
    yardstick = None
    if module is not None:
        module.eval()
        itself = np.concatenate([torch_executor(module, "cpu")(batch) for batch in batches])
        twin = np.concatenate([twin_executor(module, "cpu")(batch) for batch in batches])
        yardstick = _agreement(itself, twin)
    session = open_session(serialise(float_model), "cpu")
    exported = np.concatenate([session.run(batch) for batch in batches])
    for bits in range(_SMALLEST_TRIED, largest.fraction_bits + 1):
        try:
            network = lower(coded, fraction_bits=bits, input_bits=choices.input_bits, pixels=pixels)
        except BoundError:
            continue
        logits = _integer_logits(coded, network, batches)
        agreement = _agreement(exported, logits)
        if agreement >= (1.0 if yardstick is None else yardstick):
            return IntegerForm(
                network=network,
                fraction_bits_from="calibration",
                agreement=agreement,
                yardstick=yardstick,
            )
    return None


def _integer_logits(
    coded: CodedNetwork, network: IntegerNetwork, batches: list[NDArray[np.float32]]
) -> NDArray[np.int64]:
    model = build_integer_model(coded, network, name="calibration", tool=_TOOL, metadata={})
    session = open_session(serialise(model), "cpu")
    return np.concatenate(
        [session.run_all(integer_input(network, batch))["logits"] for batch in batches]
    )


def integer_input(network: IntegerNetwork, images: NDArray[np.float32]) -> NDArray[Any]:
    """Return preprocessed images as an integer network reads them: as they are, or as pixels."""
    return images if network.pixels is None else network.pixels.of_images(images)


def _agreement(first: NDArray[Any], second: NDArray[Any]) -> float:
    return float((first.argmax(axis=1) == second.argmax(axis=1)).mean())
