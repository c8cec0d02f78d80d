"""Two exports side by side, held to numpy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import apot_export
from apot_export.artifacts.directory import PACKED_MODEL
from apot_export.downstream import load
from apot_export.errors import DatasetError, ExportError
from apot_export.network import CodedLayer
from tests.support.commands import CHECKPOINT, EXPORT, document, here, run
from tests.support.published import Shelf, in_batches

IMAGES = 200


@pytest.fixture(scope="module")
def images(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "images.npz"
    with np.load(shelf.reference / "datasets/cifar10_test_head.npz") as arrays:
        labels = arrays["labels"][:IMAGES]
    np.savez(path, images=shelf.images("cifar10_res20_4bit")[:IMAGES], labels=labels)
    return path


def wilson(hits: int, count: int) -> tuple[float, float]:
    z, rate = 1.959964, hits / count
    reach = z * math.sqrt(rate * (1 - rate) / count + (z / (2 * count)) ** 2)
    return tuple((rate + z * z / (2 * count) + s * reach) / (1 + z * z / count) for s in (-1, 1))  # type: ignore[return-value]


def test_an_export_differs_from_itself_in_nothing(shelf: Shelf, images: Path) -> None:
    export = shelf.export("cifar10_res20_4bit")
    found = apot_export.compare(export, export / PACKED_MODEL, images=images)
    assert (found.codes, found.values, found.unmatched) == (0, 0, ())
    assert {(layer.codes, layer.values, layer.distance) for layer in found.layers} == {(0, 0, 0.0)}
    assert found.results is not None
    assert found.results.second.agreement == 1.0
    assert found.results.second.largest_logit_difference == 0.0
    assert found.results.first.top1 == found.results.second.side.top1
    flips = found.results.second.flips
    assert flips is not None
    assert (flips.original_only, flips.export_only, flips.probability) == (0, 0, 1.0)
    size = (export / PACKED_MODEL).stat().st_size
    assert found.files[PACKED_MODEL] == (size, size)


def test_four_and_three_bits_differ_as_numpy_counts(shelf: Shelf, images: Path) -> None:
    exports = [shelf.export(f"cifar10_res20_{bits}bit") for bits in (4, 3)]
    found = document("compare", *exports, "--images", images)
    one, other = (apot_export.load_packed(export) for export in exports)
    assert [layer["layer"] for layer in found["layers"]] == list(one.layers)
    for layer in found["layers"]:
        first, second = one.layers[layer["layer"]], other.layers[layer["layer"]]
        assert isinstance(first, CodedLayer)
        assert isinstance(second, CodedLayer)
        # Shares of the threshold are distinct to far more than 1e-9.
        shares = [one.levels() / one.codebook.denominator for one in (first, second)]
        assert layer["codes"] == (np.abs(shares[0] - shares[1]) > 1e-9).sum()
        values = [one.weights().astype(np.float64) for one in (first, second)]
        assert layer["weights"] == values[0].size
        assert layer["values"] == (values[0] != values[1]).sum()
        distance = math.sqrt(((values[0] - values[1]) ** 2).sum() / (values[0] ** 2).sum())
        assert layer["distance"] == pytest.approx(distance)
    assert found["codes"] == sum(layer["codes"] for layer in found["layers"]) > 100_000
    for name, sizes in found["files"].items():
        assert sizes == [(export / name).stat().st_size for export in exports]
    for form, export in zip(found["costs"], exports, strict=True):
        stored = apot_export.inspect(export).cost.forms[0]
        assert [form["additions"], form["shifts"]] == [stored.additions, stored.shifts]
    assert found["costs"][0]["additions"] > found["costs"][1]["additions"] > 0
    assert_results_are_numpys(found["results"], exports, images)


def assert_results_are_numpys(found: dict[str, Any], exports: list[Path], images: Path) -> None:
    with np.load(images) as arrays:
        pixels, labels = arrays["images"], arrays["labels"]
    # The stand-alone reader, which shares no code with the kernels.
    logits: list[NDArray[np.float32]] = [
        in_batches(load(export / PACKED_MODEL).run, pixels, 50) for export in exports
    ]
    classes = [one.argmax(axis=1) for one in logits]
    right = [one == labels for one in classes]
    for side, hits in zip((found["first"], found["second"]), right, strict=True):
        assert side["top1_hits"] == hits.sum()
        assert side["top1"] == hits.mean()
        assert side["top1_interval"] == pytest.approx(wilson(int(hits.sum()), IMAGES))
    assert found["images"] == IMAGES
    assert found["agreement"] == (classes[0] == classes[1]).mean()
    alone = [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())]
    assert [found["first_only"], found["second_only"]] == alone
    trials = sum(alone)
    tail = sum(math.comb(trials, k) for k in range(min(alone) + 1)) / 2**trials
    assert found["probability"] == pytest.approx(min(1.0, 2 * tail))
    largest = np.abs(logits[0] - logits[1]).max()
    assert found["largest_logit_difference"] == pytest.approx(largest, rel=1e-4)


@here
def test_zeros_without_signs_are_other_codes_of_the_same_values() -> None:
    assert run("convert", CHECKPOINT, "-o", "unsigned", "--unsigned-zeros").exit_code == 0
    found = document("compare", EXPORT, "unsigned")
    signed, unsigned = (apot_export.load_packed(path) for path in (EXPORT, "unsigned"))
    changed = 0
    for name, layer in signed.layers.items():
        other = unsigned.layers[name]
        assert isinstance(layer, CodedLayer)
        assert isinstance(other, CodedLayer)
        changed += int((layer.codes != other.codes).sum())
    assert found["codes"] == changed > 0
    assert found["values"] == 0
    assert found["results"] is None
    shown = run("compare", EXPORT, "unsigned").stdout
    assert f"{changed:,} codes and 0 values differ" in shown
    assert "name images with --dataset, --data or --images" in shown


@here
def test_results_on_images_are_shown() -> None:
    shown = run("compare", EXPORT, EXPORT, "--dataset", "digits", "--limit", "50").stdout
    assert "50 images of digits" in shown
    assert "the same class for 100.00% of images" in shown
    assert "0 images are right by A alone, 0 by B alone (McNemar: p = 1)" in shown


@here
def test_other_files_are_refused() -> None:
    for path in (CHECKPOINT, "nowhere.safetensors"):
        refused = run("compare", EXPORT, path)
        assert refused.exit_code == 2
        assert "Exports are compared." in refused.stderr
        assert "convert CHECKPOINT writes an export" in refused.stderr


def test_networks_of_other_images_are_compared_without(exported: Path, shelf: Shelf) -> None:
    paths = exported / EXPORT, shelf.export("cifar10_res20_3bit")
    found = apot_export.compare(*paths)
    assert found.results is None
    assert found.unmatched
    with pytest.raises(DatasetError, match="do not read and name the same images"):
        apot_export.compare(*paths, dataset="digits")


def test_a_folder_without_an_export_is_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is not an export"):
        apot_export.compare(exported / EXPORT, tmp_path)
