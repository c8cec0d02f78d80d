"""Options of a verification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike


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
