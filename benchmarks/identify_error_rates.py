"""Measure how often batch-norm statistics name the right weights: published and trained networks.

    python -m benchmarks.identify_error_rates --networks build/identify --seeds 9

Trains the network of examples/train_digits.py at 2 to 5 bits, with additive and uniform levels,
from several seeds (about 25 s each; networks in the folder are kept), and prints a table of which
hypothesis comes first, by how much, and which wrong statements would be refused.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apot_export.original.choices import Choices
from apot_export.original.level_sets import activation_level_set, weight_level_set
from apot_export.original.published import load_original
from apot_export.original.quantization import Quantization
from apot_export.original.witness import DECISIVE, Weights, same_weights, weigh

PROJECT = Path(__file__).resolve().parents[1]
REFERENCE = Path(os.environ.get("APOT_EXPORT_REFERENCE", PROJECT.parent / "shared"))
BITS, METHODS, EPOCHS = (2, 3, 4, 5), ("apot", "uniform"), 30
PUBLISHED = {
    "CIFAR10/result/res20_2bit/model_best.pth.tar": ("apot", 2),
    "CIFAR10/result/res20_3bit/model_best.pth.tar": ("apot", 3),
    "CIFAR10/result/res20_4bit/model_best.pth.tar": ("apot", 4),
    "first-release/CIFAR10/checkpoint/res20_3bit.pth.tar": ("apot", 3),
    "Enhanced-Quantization/result/cifar100/res32_2bit/model_best.pth.tar": ("apot", 2),
    "MNIST/result/resnet10_3bit/model_best.pth.tar": ("apot", 3),
    "MNIST/result/resnet10_4bit_uniform/model_best.pth.tar": ("uniform", 4),
    "MNIST/result/resnet10_5bit/model_best.pth.tar": ("apot", 5),
    "ImageNet/res18_4bit.pth.tar": ("apot", 4),
}


@dataclass
class Row:
    """Outcomes of networks of one truth."""

    margins: list[float] = field(default_factory=list)
    """Evidence of the truth less that of the best other hypothesis, in nats."""
    right: int = 0
    """How many had a margin of at least `DECISIVE`."""
    wrong: int = 0
    """How many decided for another hypothesis."""
    refused: int = 0
    """Wrong statements about the bits that would be refused."""
    stated: int = 0
    """Wrong statements about the bits that were tried."""


def level_sets(method: str, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the magnitudes of weights and activations, float32 [levels] each, ascending."""
    quantization = Quantization(
        family="apot-v1", weight_bits=bits, activation_bits=bits, method=method
    )
    sets = weight_level_set(quantization), activation_level_set(quantization)
    steps = 2 ** (bits - 1) - 1, 2**bits - 1
    first, second = (
        torch.arange(count + 1) / count if levels is None else levels.sort().values
        for levels, count in zip(sets, steps, strict=True)
    )
    return first, second


def train(path: Path, method: str, bits: int, seed: int) -> None:
    """Train the digits network with other levels and save it."""
    sys.path.insert(0, str(PROJECT / "examples"))
    code: Any = importlib.import_module("train_digits")
    code.WEIGHT_LEVELS, code.ACTIVATION_LEVELS = level_sets(method, bits)
    torch.manual_seed(1000 * seed + 10 * bits + (method == "uniform"))
    training, test = code.load_split()
    network = code.ResNet8()
    for _ in code.train(network, *training, EPOCHS):
        pass
    for name, parameter in network.named_parameters():
        if name.endswith("wgt_alpha"):
            parameter.data.abs_()  # a negative threshold of weights means the same
    code.save_checkpoint(path, network, EPOCHS, code.accuracy(network, *test))
    print(f"trained {path.name}", flush=True)


def networks(folder: Path, seeds: int) -> Iterator[tuple[str, Path, str, int]]:
    """Yield kind, checkpoint, level set and bits of every network."""
    for name, (method, bits) in PUBLISHED.items():
        yield name, REFERENCE / "checkpoints" / name, method, bits
    folder.mkdir(parents=True, exist_ok=True)
    for method, bits, seed in itertools.product(METHODS, BITS, range(seeds)):
        path = folder / f"{method}_{bits}_{seed}.pth.tar"
        if not path.exists():
            train(path, method, bits, seed)
        yield f"digits, {bits}-bit {method}", path, method, bits


def judge(row: Row, path: Path, method: str, bits: int) -> None:
    """Add a network's outcome to a row."""
    family = "first-release" if "first-release" in path.parts else None
    original = load_original(path, Choices(bits=3, method="apot", family=family))
    found = weigh(original.module, original.architecture.input_shape, original.family)
    evidence = {s.hypothesis: s.evidence for s in found.weights}

    def of(method: str, bits: int) -> float:
        stated = Weights(method=method, bits=bits)
        return next(
            value for held, value in evidence.items() if same_weights(original.family, held, stated)
        )

    truth = of(method, bits)
    others = [
        value
        for held, value in evidence.items()
        if not same_weights(original.family, held, Weights(method=method, bits=bits))
    ]
    margin = truth - max(others)
    row.margins.append(margin)
    row.right += margin >= DECISIVE
    row.wrong += margin <= -DECISIVE
    for other in set(BITS) - {bits}:
        offered = original.family.bit_widths(method)
        if other in offered:
            row.stated += 1
            row.refused += found.decisive and of(method, other) <= -DECISIVE


def main() -> None:
    """Train what is missing, judge all networks and print the table."""
    parser = argparse.ArgumentParser(description="Error rates of identification by batch-norm.")
    parser.add_argument("--networks", type=Path, default=PROJECT / "build" / "identify")
    parser.add_argument("--seeds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Row] = defaultdict(Row)
    for kind, path, method, bits in networks(arguments.networks, arguments.seeds):
        judge(rows[kind], path, method, bits)
    print(
        "| networks | number | decided rightly | decided wrongly | margin in nats: least, median |"
    )
    print("|---|---|---|---|---|")
    for kind, row in rows.items():
        margins = f"{min(row.margins):.0f}, {np.median(row.margins):.0f}"
        print(f"| {kind} | {len(row.margins)} | {row.right} | {row.wrong} | {margins} |")
    stated, refused = (sum(getattr(r, n) for r in rows.values()) for n in ("stated", "refused"))
    print(f"\nWrong statements about the bits of weights refused: {refused} of {stated}.")


if __name__ == "__main__":
    main()
