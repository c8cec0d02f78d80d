"""The images of a run."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from apot_export.datasets import (
    ArrayFile,
    Dataset,
    normalisation_of,
    open_arrays,
    open_dataset,
)
from apot_export.network import CodedNetwork
from apot_export.verification._options import RunOptions


def open_images(
    options: RunOptions, packed: CodedNetwork, preprocessing: str, *, alone: bool = False
) -> tuple[Dataset, ArrayFile | None]:
    """Open the images of a run, and the user's outputs where they are given.

    Args:
        options: Which images, and how their pixels are normalised.
        packed: The network that reads them.
        preprocessing: Of the network's training: "apot-code" or "alq-code".
        alone: Whether images that lie beside the user's outputs are those of the run.

    Raises:
        DatasetError: They are missing or do not fit the network.
    """
    output_shape = packed.shapes[packed.output]
    how: dict[str, Any] = {
        "input_shape": packed.input_shape,
        "classes": output_shape[0],
        "preprocessing": preprocessing,
        "mean": options.mean,
        "std": options.std,
    }

    def arrays(path: str | PathLike[str], *, with_logits: bool) -> ArrayFile:
        return open_arrays(
            Path(path),
            input_shape=packed.input_shape,
            output_shape=output_shape,
            normalisation=lambda: normalisation_of(options.dataset, **how),
            with_logits=with_logits,
        )

    reference = None
    if options.reference is not None:
        reference = arrays(options.reference, with_logits=True)
    if options.images is not None:
        images = arrays(options.images, with_logits=False).dataset
    elif reference is not None and alone:
        images = reference.dataset
    else:
        data = None if options.data is None else Path(options.data)
        images = open_dataset(options.dataset, data=data, **how)
    # A label names the class of an image, not those of a map's positions.
    return images if len(output_shape) == 1 else images.without_labels(), reference
