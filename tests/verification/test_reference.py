"""`verify` against outputs of the user's own code, on images without labels, on maps."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import apot_export
from apot_export.errors import ApotExportError
from apot_export.verification import Report
from tests.support import training_codes
from tests.support.commands import run
from tests.support.published import Shelf
from tests.support.workshop import DIGITS, Workshop, open_workshop

UNLABELLED = {"top1": None, "top1_hits": None, "top1_interval": None, "top5": None}


@pytest.fixture(scope="module")
def workshop(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(project / DIGITS, tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def dumped(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what the example wrote, which shares no code with the product."""
    path = tmp_path_factory.mktemp("dumped") / "reference.npz"
    subprocess.run([sys.executable, project / "examples/dump_reference.py", path], check=True)
    return path


def arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as content:
        return dict(content)


def test_outputs_of_the_users_own_code_pass(
    workshop: Workshop, dumped: Path, tmp_path: Path
) -> None:
    options = ("--checkpoint", workshop.checkpoint, "--device", "cpu")
    page = tmp_path / "page.html"
    result = run("verify", workshop.export, "--reference", dumped, *options, "--html", page)
    assert result.exit_code == 0, result.output
    assert "your class is reproduced for 100.00%" in " ".join(result.output.split())
    assert "Your outputs" in page.read_text(encoding="utf-8")
    report = json.loads(
        run("verify", workshop.export, "--reference", dumped, *options, "--json").stdout
    )
    assert report["dataset"] == "arrays"
    assert report["original"] | UNLABELLED == report["original"]
    assert report["flips"] is None
    assert report["reference"]["images"] == report["images"] == 359
    assert report["reference"]["agreement"] == report["reference"]["original_agreement"] == 1
    assert report["reference"]["equal"] > 0.95


def test_outputs_beside_a_dataset(workshop: Workshop, dumped: Path) -> None:
    report = workshop.verify(workshop.export, reference=dumped, dataset="digits")
    assert (report.verdict, report.dataset, report.images) == ("PASS", "digits", 32)
    assert report.reference is not None
    assert report.reference.images == 359


def test_outputs_need_no_checkpoint(workshop: Workshop, dumped: Path, tmp_path: Path) -> None:
    export = tmp_path / "moved" / "export"
    shutil.copytree(workshop.export, export)
    page = tmp_path / "page.html"
    result = run("verify", export, "--reference", dumped, "--limit", 50, "--html", page, "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["verdict"], report["images"]) == (0, "PASS", 50)
    assert report["settings"]["original"] is None
    assert report["reference"]["original_agreement"] is None
    assert report["self_agreement"] is None
    assert report["weights"]["exact"] == report["weights"]["layers"] > 0
    assert report["accumulators"]["compared"] > 0
    assert any("no original was built" in note for note in report["notes"])
    result = run("verify", export, "--reference", dumped)
    assert (result.exit_code, "your outputs" in result.output) == (0, True)
    result = run("verify", export, "--dataset", "digits")
    assert (result.exit_code, "without its original" in result.output) == (0, True)


def wrong(workshop: Workshop, dumped: Path, tmp_path: Path, images: int | None) -> Report:
    """Hold an export of 3 bits to the outputs of the network of 4 bits."""
    export = apot_export.convert(
        workshop.checkpoint, tmp_path / "export", bits=3, trust_options=True
    ).path
    content = {name: array[:images] for name, array in arrays(dumped).items()}
    np.savez(tmp_path / "few.npz", **content)
    return apot_export.verify(export, reference=tmp_path / "few.npz", device="cpu")


@pytest.mark.parametrize("images", [None, 12])
def test_another_network_fails(
    workshop: Workshop, dumped: Path, tmp_path: Path, images: int | None
) -> None:
    report = wrong(workshop, dumped, tmp_path, images)
    assert report.verdict == "FAIL"
    assert "different networks" in report.failures[-1]
    assert "the export is wrong" not in report.failures[-1]


def test_few_images_judge_nothing_and_say_so(
    workshop: Workshop, dumped: Path, tmp_path: Path
) -> None:
    report = wrong(workshop, dumped, tmp_path, 2)
    assert any("too few" in note for note in report.notes)


def test_golden_outputs(shelf: Shelf, tmp_path: Path) -> None:
    """The 4-bit network's outputs pass; scaled ones and those of the 3-bit network fail."""
    export, images = shelf.export("cifar10_res20_4bit"), shelf.images("cifar10_res20_4bit")[:40]
    golden = {bits: shelf.golden(f"cifar10_res20_{bits}bit")["logits"][:40] for bits in (3, 4)}
    other_order = shelf.golden("cifar10_res20_4bit")["logits_no_mkldnn"][:40]
    few = 12  # are enough to tell them apart
    for logits, verdict in (
        (golden[4], "PASS"),
        (other_order, "PASS"),
        (golden[4][:few] * np.float32(1.01), "FAIL"),
        (golden[3][:few], "FAIL"),
    ):
        np.savez(tmp_path / "outputs.npz", images=images[: len(logits)], logits=logits)
        report = apot_export.verify(
            export, reference=tmp_path / "outputs.npz", device="cpu", attach=False
        )
        assert report.verdict == verdict, report.failures


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no logits": ({"logits": None}, "arrays named images and logits"),
    "no images": ({"images": None}, "arrays named images and logits"),
    "NaN": ({"logits": np.full((20, 10), np.nan)}, "200 NaN or infinite"),
    "infinity": ({"images": np.full((20, 1, 8, 8), np.inf, np.float32)}, "finite numbers"),
    "image shape": ({"images": np.zeros((20, 8, 8, 1), np.float32)}, "[N, 1, 8, 8]"),
    "no image": ({"images": np.zeros((0, 1, 8, 8), np.float32)}, "N of 1 or more"),
    "output shape": ({"logits": np.zeros((20, 11))}, "[N, 10]"),
    "counts": ({"logits": np.ones((19, 10))}, "19 outputs of 20 images"),
    "type of images": ({"images": np.zeros((20, 1, 8, 8))}, "float32 or uint8"),
    "type of outputs": ({"logits": np.ones((20, 10), np.float16)}, "float32 or float64"),
    "pixels": ({"images": np.zeros((20, 1, 8, 8), np.uint8)}, "--mean and --std"),
    "pickles": ({"logits": np.array([{}] * 20, dtype=object)}, "allow_pickle=False"),
    "equal outputs": ({"logits": np.ones((20, 10))}, "all equal"),
    "labels": ({"labels": np.full(20, 10)}, "classes 0 to 9"),
}


@pytest.mark.parametrize(("changes", "text"), BAD.values(), ids=BAD)
def test_bad_arrays_are_refused(
    workshop: Workshop, dumped: Path, tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    content = {name: array[:20] for name, array in arrays(dumped).items()} | changes
    path = tmp_path / "bad.npz"
    np.savez(path, **{name: array for name, array in content.items() if array is not None})
    with pytest.raises(ApotExportError) as caught:
        workshop.verify(workshop.export, reference=path, limit=2)
    assert text in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"text"])
def test_files_that_hold_no_arrays_are_refused(
    workshop: Workshop, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    result = run("verify", workshop.export, "--reference", path)
    assert (result.exit_code, "The arrays cannot be used" in result.output) == (2, True)
    np.save(tmp_path / "single.npy", np.zeros(3))
    result = run("verify", workshop.export, "--reference", tmp_path / "single.npy")
    assert (result.exit_code, "a single array" in result.output) == (2, True)
    result = run("verify", workshop.export, "--reference", tmp_path / "missing.npz")
    assert (result.exit_code, "No such file" in result.output) == (2, True)


# --- images without labels ------------------------------------------------------------------------


def test_arrays_with_and_without_labels(workshop: Workshop, dumped: Path, tmp_path: Path) -> None:
    images = arrays(dumped)["images"]
    labels = arrays(dumped)["logits"].argmax(axis=1)
    path = tmp_path / "images.npz"
    np.savez(path, images=images)
    report = workshop.verify(workshop.export, images=path)
    assert (report.verdict, report.original.top1, report.flips) == ("PASS", None, None)
    np.savez(path, images=images, labels=labels)
    report = workshop.verify(workshop.export, images=path)
    assert (report.verdict, report.original.top1, report.record) == ("PASS", 1, None)


def test_a_folder_without_labels(workshop: Workshop, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    page = tmp_path / "page.html"
    options = ("--checkpoint", workshop.checkpoint, "--device", "cpu", "--html", page)
    folder = ("--dataset", "folder", "--data", tmp_path)
    result = run("verify", workshop.export, *folder, *options, "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["images"], report["agreement"]) == (0, 12, 1)
    assert report["export"] | UNLABELLED == report["export"]
    assert "no labels" in page.read_text(encoding="utf-8")
    result = run("verify", workshop.export, *folder, *options[:4])
    assert (result.exit_code, "McNemar" in result.output) == (0, False)


# --- maps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [3, 1])
def test_a_network_of_maps(classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "maps", raising=False)
    shutil.copy(training_codes.__file__, tmp_path / "maps.py")
    network = training_codes.make(dense=True, classes=classes)
    torch.save({"state_dict": network.state_dict()}, "maps_4bit.pth.tar")
    factory = ["--model", "maps:make"]
    for argument in ("dense=True", f"classes={classes}"):
        factory += ["--model-kwarg", argument]
    result = run("convert", "maps_4bit.pth.tar", "-o", "maps", *factory, "--input-shape", "1,8,8")
    assert result.exit_code == 0, result.output
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network(images).numpy()
    assert logits.shape == (64, classes, 8, 8)
    np.savez("outputs.npz", images=images.numpy(), logits=logits)
    for number in range(3):
        Image.fromarray((images[number, 0].numpy() * 255).astype(np.uint8)).save(f"{number}.png")
    for options in (
        ("--reference", "outputs.npz"),
        ("--reference", "outputs.npz", "--model", "maps:make"),
        ("--images", "outputs.npz", "--model", "maps:make", "--html", "page.html"),
        ("--dataset", "folder", "--data", ".", "--model", "maps:make", "--sides", "ort,packed"),
    ):
        result = run("verify", "maps", *options, "--device", "cpu", "--json")
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        assert report["agreement"] > 0.99
        assert report["original"]["top1"] is None
    np.savez("outputs.npz", images=images.numpy(), logits=logits + logits.std())
    assert run("verify", "maps", "--reference", "outputs.npz").exit_code == 1
