"""The published checkpoints, their exports, and what their training codes computed."""

from __future__ import annotations

import fcntl
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts.packed import load_packed
from apot_export.conversion.convert import convert
from apot_export.datasets import kind_by_name
from apot_export.network import CodedNetwork
from apot_export.original.choices import Choices

Floats = NDArray[np.float32]


def scaled(pixels: NDArray[np.uint8], mean: Any, std: Any) -> Floats:
    """Normalise pixels as the golden outputs' description says."""
    centre, spread = (np.array(x, dtype=np.float32).reshape(-1, 1, 1) for x in (mean, std))
    return (pixels.astype(np.float32) / np.float32(255) - centre) / spread


def cifar(reference: Path) -> Floats:
    with np.load(reference / "datasets/cifar10_test_head.npz") as arrays:
        return scaled(arrays["images"], (0.491, 0.482, 0.447), (0.247, 0.243, 0.262))


def mnist(reference: Path) -> NDArray[np.uint8]:
    path = reference / "datasets/MNIST/raw/t10k-images-idx3-ubyte.gz"
    content = gzip.decompress(path.read_bytes())
    return np.frombuffer(content, dtype=np.uint8, offset=16).reshape(-1, 1, 28, 28)


def photographs(reference: Path) -> Floats:
    dataset = kind_by_name("imagenet").open(reference / "datasets/imagenet-sample")
    with np.load(reference / "golden/res18_4bit.npz") as arrays:
        return np.stack([dataset.load(int(index)) for index in arrays["image_index"][:8]])


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published checkpoint."""

    checkpoint: str
    images: Callable[[Path], Floats]
    """The images of the golden outputs, in their order."""
    choices: Choices | None = None


_RES32 = "Enhanced-Quantization/result/cifar100/res32_2bit/model_best.pth.tar"
PUBLISHED = {
    **{
        f"cifar10_res20_{bits}": Published(
            checkpoint=f"CIFAR10/result/res20_{bits}/model_best.pth.tar", images=cifar
        )
        for bits in ("2bit", "3bit", "4bit", "32bit")
    },
    **{
        f"mnist_resnet10_{kind}": Published(
            checkpoint=f"MNIST/result/resnet10_{kind}/model_best.pth.tar",
            images=lambda reference: scaled(mnist(reference)[:1000], 0.131, 0.308),
        )
        for kind in ("3bit", "4bit_uniform", "5bit")
    },
    **{
        f"cifar100_res32_2bit{grid}": Published(
            checkpoint=_RES32,
            images=lambda reference: cifar(reference)[:300],
            choices=choices,
        )
        for grid, choices in {
            "": Choices(),
            "_ngrid_z2": Choices(grid="nonzero", z=2),
            "_ngrid_z4": Choices(grid="nonzero", z=4),
        }.items()
    },
    "res18_4bit": Published(checkpoint="ImageNet/res18_4bit.pth.tar", images=photographs),
    "alq_lenet5": Published(
        checkpoint="ALQ/lenet5_model.pth",
        images=lambda reference: scaled(mnist(reference)[8000:], 0.1307, 0.3081),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Exports of the published checkpoints, each converted when it is first asked for.

    The folder may be shared by processes.
    """

    reference: Path
    folder: Path

    def checkpoint(self, name: str) -> Path:
        return self.reference / "checkpoints" / PUBLISHED[name].checkpoint

    def export(self, name: str) -> Path:
        export = self.folder / name
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not export.exists():
                # Golden outputs of the non-zero grid are of weights that were trained without.
                choices = PUBLISHED[name].choices
                trusted = choices is not None
                convert(self.checkpoint(name), export, choices=choices, trust_options=trusted)
        return export

    def network(self, name: str) -> CodedNetwork:
        return load_packed(self.export(name)).network

    def images(self, name: str) -> Floats:
        return PUBLISHED[name].images(self.reference)

    def golden(self, name: str) -> dict[str, NDArray[Any]]:
        single = self.reference / "golden" / f"{name}_logits.npy"
        if single.exists():
            return {"logits": np.load(single)}
        with np.load(self.reference / "golden" / f"{name}.npz") as arrays:
            return dict(arrays)


def in_batches(run: Callable[[Floats], Floats], images: Floats, size: int = 100) -> Floats:
    """Run all images, the last batch smaller than the others."""
    return np.concatenate(
        [run(batch) for batch in np.split(images, range(size, len(images), size))]
    )


def agreement(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the share of images of the same top-1 class."""
    return float((first.argmax(axis=1) == second.argmax(axis=1)).mean())
