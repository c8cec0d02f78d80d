"""The inputs that lie in an export, and the outputs that it states for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts.directory import INTEGER_MODEL, ONNX_MODEL, SAMPLE
from apot_export.artifacts.sample import Sample, read_sample
from apot_export.datasets import Normalisation
from apot_export.network import CodedNetwork
from apot_export.runtimes.expected import with_expected

_MOST_APART = 0.1
"""Share of the largest logit. Levels that float rounding moves change logits by less, kernels that
compute something else by more."""


@dataclass(frozen=True, kw_only=True)
class SampleComparison:
    """What the models give for the sample of an export, and what that states."""

    inputs: int
    source: str
    """The data set that the inputs are from, or "synthetic"."""
    largest_difference: float
    """Of a logit of ONNX Runtime or the oracle, from the stated one."""
    integers: int
    """Logits of the integer model that were compared."""
    failures: tuple[str, ...]


def compare_sample(
    directory: Path, manifest: Mapping[str, Any], network: CodedNetwork
) -> SampleComparison | None:
    """Compute the outputs of an export's sample again; None for an export without one.

    Args:
        directory: The export.
        manifest: Its manifest.
        network: Of its packed file.

    Raises:
        ExportError: The sample cannot be read, or ONNX Runtime does not run a model.
    """
    if SAMPLE not in manifest["files"]:
        return None
    stated = read_sample(directory / SAMPLE)
    if stated.inputs.shape[1:] != network.input_shape:
        return _compared(stated, 0.0, [f"inputs of shape {list(stated.inputs.shape[1:])}"])
    if stated.images is not None and stated.images.shape != (
        len(stated),
        *network.input_shape[1:],
        network.input_shape[0],
    ):
        return _compared(stated, 0.0, [f"images of shape {list(stated.images.shape[1:])}"])
    integer = None
    if INTEGER_MODEL in manifest["files"]:
        integer = (directory / INTEGER_MODEL).read_bytes()
    computed = with_expected(stated, network, (directory / ONNX_MODEL).read_bytes(), integer)
    interface = manifest.get("interface")
    preprocessing = interface.get("preprocessing") if isinstance(interface, dict) else None
    problems = list(_problems(stated, computed, preprocessing))
    pairs = [(computed.logits, stated.logits), (computed.oracle_logits, stated.oracle_logits)]
    differences = [
        float(np.abs(one - other).max(initial=0))
        for one, other in pairs
        if one is not None and other is not None and one.shape == other.shape
    ]
    return _compared(stated, max(differences, default=0.0), problems)


def _compared(sample: Sample, largest: float, problems: list[str]) -> SampleComparison:
    integers = sample.integer_logits
    return SampleComparison(
        inputs=len(sample),
        source=sample.source,
        largest_difference=largest,
        integers=0 if integers is None else integers.size,
        failures=tuple(f"{SAMPLE} states {problem}" for problem in problems),
    )


def _problems(
    stated: Sample, computed: Sample, preprocessing: Mapping[str, Any] | None
) -> Iterator[str]:
    """Yield what a sample states wrongly."""
    if stated.images is not None and preprocessing is not None:
        try:
            mean, std = (tuple(preprocessing[name]) for name in ("mean", "std"))
            normalisation = Normalisation(mean=mean, std=std, white=preprocessing["range"][1])
            made = np.stack([normalisation(image) for image in stated.images])
        except (LookupError, TypeError, ValueError, ArithmeticError):  # nothing checked its types
            made = np.empty(0, np.float32)
        if not np.array_equal(made, stated.inputs):
            yield "inputs that the preprocessing does not make of its images"
    for name, what in (("logits", "ONNX Runtime"), ("oracle_logits", "the oracle")):
        apart = _apart(getattr(computed, name), getattr(stated, name))
        if not apart <= _MOST_APART:
            yield f"other logits than {what} computes ({apart:.0%} of the largest apart)"
    made_again = computed.integer_logits
    stated_integers = () if stated.integer_logits is None else stated.integer_logits
    if made_again is not None and not np.array_equal(made_again, stated_integers):
        yield "other integer logits than the integer model computes"


def _apart(one: NDArray[Any] | None, other: NDArray[Any] | None) -> float:
    """Return the median difference of outputs, as a share of an output's largest number."""
    if one is None or other is None or one.shape != other.shape:
        return float("inf")
    if not one.size:
        return 0.0
    axes = tuple(range(1, one.ndim))
    largest = np.maximum(np.abs(one).max(axis=axes), 1e-30)
    return float(np.median(np.abs(one - other).max(axis=axes) / largest))
