"""Options of a verification."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike

from apot_export.arguments import require_fields
from apot_export.errors import DeviceError
from apot_export.original.choices import Stated

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""
_BATCH_PIXELS = 16 * 3 * 224 * 224
"""Default batch: as many images as have this many input values, at most 100. The original quantizes
its weights again for every batch, so small ones cost most of the time."""
_MOST_DECODERS = 4
SIDES = ("ort", "ort-cpu", "ort-cuda", "openvino", "native", "oracle", "packed")
"""ort: ONNX Runtime on the original's device."""
BACKENDS = ("numpy", "ort-cpu", "ort-cuda", "c")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Which images a verification uses, what it compares, and how it runs."""

    dataset: str | None = None
    """"cifar10", "cifar100", "mnist", "imagenet", "digits" or "folder"; None for the one that fits
    the network."""
    data: str | PathLike[str] | None = None
    """Folder of the images; None for $APOT_EXPORT_DATA or ./data."""
    images: str | PathLike[str] | None = None
    """File of images as arrays in place of a dataset: see `datasets.open_arrays`. Uint8 pixels are
    normalised as those of `dataset`, or with `mean` and `std`."""
    reference: str | PathLike[str] | None = None
    """File of images and of the logits that the user's own code computed from them: the export is
    held to these, too, or to these alone where no original is there. Without other images, the
    run is on these."""
    mean: Sequence[float] | None = None
    """Per channel, of pixels in [0, 1], for "folder" and for arrays of pixels."""
    std: Sequence[float] | None = None
    """Likewise."""
    device: str = "auto"
    """"auto", "cuda" or "cpu", for the original and for the side "ort"."""
    limit: int | None = None
    """Use this many images, drawn from every class in proportion."""
    seed: int = 0
    """Of that drawing."""
    batch_size: int | None = None
    """Images per batch; None for a size that fits the image."""
    workers: int | None = None
    """Threads that decode images ahead; None for as many as there are cores, at most 4."""
    sides: str | None = None
    """Of ort, ort-cpu, ort-cuda, openvino, native, oracle and packed, separated by commas: what is
    compared with the original; the first one is the export of the verdict. None: ort."""
    backends: str | None = None
    """Of numpy, ort-cpu, ort-cuda and c, separated by commas: run the integer network on these and
    compare every bit of its logits. None: leave it alone."""
    resume: bool = False
    """Go on from the finished shards of an interrupted run of the same kind."""
    ignore_record: bool = False
    """Do not fail where the accuracy is clearly below the one that the checkpoint records."""
    attach: bool = True
    """Write the verdict into the export's manifest."""

    def __post_init__(self) -> None:
        require_fields(self)
        parse_sides(self.sides, self.device)
        if self.backends is not None:
            parse_backends(self.backends)

    def images_of_a_batch(self, input_shape: Sequence[int]) -> int:
        """Return the images per batch of a network whose images have this shape."""
        return self.batch_size or images_that_fit(input_shape, _BATCH_PIXELS, 1, 100)

    @property
    def decoders(self) -> int:
        """Threads that decode images."""
        if self.workers is not None:
            return self.workers
        return min(_MOST_DECODERS, os.cpu_count() or 1)


def images_that_fit(input_shape: Sequence[int], pixels: int, least: int, most: int) -> int:
    """Return how many images of a shape have so many input values, within limits."""
    return max(least, min(most, pixels // math.prod(input_shape)))


def parse_sides(text: str | None, device: str) -> tuple[str, ...]:
    """Read a list of sides, separated by commas; none given: ONNX Runtime.

    Args:
        text: What a user said.
        device: "cpu", "cuda" or "cuda:1": where the original runs.

    Raises:
        DeviceError: One is unknown, or none is named.
    """
    names = tuple(name.strip() for name in ("ort" if text is None else text).split(","))
    if any(name not in SIDES for name in names):
        raise DeviceError(
            "Sides are what the original can be compared with.",
            expected=f"one or more of {','.join(SIDES)}",
            got=repr(text),
        )
    own = "ort-cpu" if device == "cpu" else "ort-cuda"
    return tuple(dict.fromkeys(own if name == "ort" else name for name in names))


def parse_backends(text: str) -> tuple[str, ...]:
    """Read a list of backends, separated by commas.

    Raises:
        DeviceError: One is unknown, or there are fewer than two.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    unknown = [name for name in names if name not in BACKENDS]
    if unknown or len(names) < 2:  # noqa: PLR2004 - a comparison
        raise DeviceError(
            "Backends to compare are two or more of those that there are.",
            expected=f"two or more of {','.join(BACKENDS)}",
            got=repr(text),
        )
    return names


class StatedRun(Stated, total=False):
    """The fields of `RunOptions` and `Choices`, as named arguments of `verify`."""

    dataset: str | None
    data: str | PathLike[str] | None
    images: str | PathLike[str] | None
    reference: str | PathLike[str] | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    device: str
    limit: int | None
    seed: int
    batch_size: int | None
    workers: int | None
    sides: str | None
    backends: str | None
    resume: bool
    ignore_record: bool
    attach: bool
