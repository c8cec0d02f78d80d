"""`verify`: passes what is right, explains differences, and says what it cannot verify."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from apot_export.artifacts.directory import ONNX_MODEL, PACKED_MODEL, read_manifest, write_export
from apot_export.encoding.capture import capture
from apot_export.errors import ApotExportError, DatasetError, ExportError
from apot_export.network.codebook import distinct_levels
from apot_export.original.quantization import Quantization
from apot_export.verification.proof.levels import compare_levels
from tests.support.one_layer import Floats, Small, exported_values, oracle_levels
from tests.support.workshop import DIGITS, Workshop, open_workshop


@pytest.fixture(scope="module")
def workshop(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(project / DIGITS, tmp_path_factory.mktemp("verification"))


# --- what is right --------------------------------------------------------------------------------


def test_a_right_export_passes(workshop: Workshop) -> None:
    seen: list[tuple[str, int, int]] = []
    report = workshop.verify(workshop.export, limit=None, progress=lambda *step: seen.append(step))
    assert (report.verdict, report.failures) == ("PASS", ())
    assert report.images == 359
    assert report.agreement == report.self_agreement == 1
    assert report.yardsticks[0].images == 359
    assert report.original.top1 == report.export.top1
    assert report.original.top1 is not None
    assert report.original.top5 is not None
    assert 0.97 < report.original.top1 <= report.original.top5 <= 1
    weights, levels, accumulators = report.weights, report.levels, report.accumulators
    assert (weights.layers, weights.exact, weights.weights) == (10, 10, 19_464)
    assert levels.images == 64
    # Inputs of the quantized layers: four of 8 x 8 x 8, three of 16 x 4 x 4, one of 32 x 2 x 2.
    assert levels.compared == 64 * (4 * 512 + 3 * 256 + 128)
    assert levels.differing == levels.unexplained == levels.values_outside == 0
    assert levels.values_compared > levels.compared
    assert 0 < levels.largest_ratio < 0.5
    assert accumulators.images == 2
    assert accumulators.compared > 7_000
    assert accumulators.values_compared > 10_000
    assert accumulators.mismatches == accumulators.values_outside == 0
    assert report.sides[0].largest_logit_difference < 1e-3
    assert report.provider == "CPUExecutionProvider"
    assert [what for what, _, _ in seen[:3]] == [
        "opening export and original",
        "loading models",
        "levels of 64 images; next: 359 images",
    ]
    assert seen[-1] == ("images", 359, 359)


def test_rewritten_export_passes(workshop: Workshop) -> None:
    """What the faults below start from is itself right."""
    assert workshop.verify(workshop.write()).failures == ()


def test_report_has_the_fields_that_scripts_rely_on(workshop: Workshop) -> None:
    report = json.loads(json.dumps(workshop.verify(workshop.export).to_json()))
    assert report["verdict"] == "PASS"
    assert report["dataset"] == "digits"
    assert report["images"] == 32
    for side in ("original", "export"):
        rates = {"top1", "top1_interval", "top5", "images_per_second"}
        assert set(report[side]) == {*rates, "top1_hits", "top5_hits"}
        assert 0 <= report[side]["top1"] <= report[side]["top5"] <= 1
        assert report[side]["images_per_second"] > 0
        low, high = report[side]["top1_interval"]
        assert low < report[side]["top1"] <= high <= 1
    assert set(report["flips"]) == {"original_only", "export_only", "probability"}
    assert report["agreement"] == report["self_agreement"] == 1
    assert {"layers", "exact"} <= set(report["weights"])
    assert {"compared", "differing", "unexplained"} <= set(report["levels"])
    assert report["provider"] == "CPUExecutionProvider"
    settings = report["settings"]
    assert (settings["device"], settings["bits"], settings["tf32"]) == ("cpu", 4, False)


# --- what cannot be verified ----------------------------------------------------------------------


def test_a_changed_file_is_not_verified(workshop: Workshop) -> None:
    for name in (ONNX_MODEL, PACKED_MODEL):
        export = workshop.write()
        content = bytearray((export / name).read_bytes())
        content[-1] ^= 1
        (export / name).write_bytes(content)
        with pytest.raises(ExportError, match="not the one that was written"):
            workshop.verify(export)
        (export / name).unlink()
        with pytest.raises(ExportError, match="missing"):
            workshop.verify(export)


def test_the_wrong_or_missing_checkpoint_is_not_verified(
    workshop: Workshop, tmp_path: Path
) -> None:
    other = tmp_path / "res8_4bit.pth.tar"
    other.write_bytes(workshop.checkpoint.read_bytes() + b"0")
    with pytest.raises(ApotExportError):
        workshop.verify(workshop.export, checkpoint=other)
    elsewhere = workshop.write(checkpoint={"path": "../gone.pth.tar", "sha256": "0"})
    with pytest.raises(ExportError, match="no longer there"):
        workshop.verify(elsewhere, checkpoint=None, bits=4)
    with pytest.raises(ExportError, match="not the one that the export was made from"):
        workshop.verify(elsewhere)


def test_an_onnx_file_that_is_none_is_not_verified(workshop: Workshop) -> None:
    export = workshop.write()
    files = {ONNX_MODEL: b"no model", PACKED_MODEL: (export / PACKED_MODEL).read_bytes()}
    target = workshop.folder / "no_model"
    write_export(target, files, read_manifest(export), force=False)
    with pytest.raises(ExportError):
        workshop.verify(target)


def test_a_dataset_that_does_not_fit_is_not_used(workshop: Workshop) -> None:
    with pytest.raises(DatasetError, match="does not fit the network"):
        workshop.verify(workshop.export, dataset="cifar10")
    with pytest.raises(DatasetError, match="no such dataset"):
        workshop.verify(workshop.export, dataset="svhn")
    with pytest.raises(DatasetError, match="At least one image"):
        workshop.verify(workshop.export, limit=0)


# --- explained differences ------------------------------------------------------------------------


def at_decision_points(module: Small) -> Floats:
    """Return one image of every decision point of the quantizer and its neighbouring floats."""
    quantizer = capture(module, (1, 1, 1)).layers["conv"].activation
    assert quantizer is not None
    levels = distinct_levels(quantizer.codebook)
    points = ((levels[1:] + levels[:-1]) / 2 * quantizer.step).astype(np.float32)
    near = points.view(np.int32)[:, None] + np.array([-1, 0, 1], dtype=np.int32)
    return near.view(np.float32).reshape(1, 1, -1, 3)


KINDS = [
    Quantization(family=family, weight_bits=4, activation_bits=bits, method=method)
    for family in ("apot-v1", "apot-v2")
    for method in ("apot", "uniform")
    for bits in (2, 3, 4, 5, 6)
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_differences_at_decision_points_are_explained(kind: Quantization) -> None:
    module = Small(kind)
    images = at_decision_points(module)
    levels = oracle_levels(module, images)
    found = compare_levels(module, images, exported_values(module, images, levels))
    assert found.compared == images.size
    assert (found.unexplained, found.values_outside) == (0, 0)
    # The level on the other side of a decision point is explained, too.
    for column, other in ((0, 2), (2, 0)):
        flipped = levels.copy()
        flipped[..., column] = levels[..., other]
        found = compare_levels(module, images, exported_values(module, images, flipped))
        assert found.unexplained == 0
        assert found.differing > 0


def test_a_level_too_far_is_not_explained_even_at_a_decision_point() -> None:
    module = Small(KINDS[2])
    images = at_decision_points(module)
    levels = oracle_levels(module, images)
    levels[0, 0, 0, 1] = levels.max()
    found = compare_levels(module, images, exported_values(module, images, levels))
    assert found.unexplained == 1
    assert "conv: 1 of" in found.offenders[0]
    assert "[0, 0, 0, 1]" in found.offenders[0]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_differences_elsewhere_are_not_explained(kind: Quantization) -> None:
    module = Small(kind)
    images = np.random.default_rng(0).uniform(0, 2, (2, 1, 9, 9)).astype(np.float32)
    levels = oracle_levels(module, images)
    right = compare_levels(module, images, exported_values(module, images, levels))
    assert (right.compared, right.differing, right.unexplained) == (162, 0, 0)
    away = levels.copy()
    away[1, 0, 2, 3] = levels.max() if levels[1, 0, 2, 3] < levels.max() else 0
    wrong = compare_levels(module, images, exported_values(module, images, away))
    assert (wrong.differing, wrong.unexplained, wrong.values_outside) == (1, 1, 0)


def test_negative_inputs_of_the_first_familys_uniform_levels_are_found() -> None:
    """That family lets negative inputs pass; an export that clips them is not what was trained."""
    module = Small(
        Quantization(family="apot-v1", weight_bits=4, activation_bits=4, method="uniform"),
        relu=False,
    )
    images = np.random.default_rng(0).uniform(-1, 2, (1, 1, 9, 9)).astype(np.float32)
    values = exported_values(module, images, oracle_levels(module, images))
    found = compare_levels(module, images, values)
    assert found.unexplained > 10


def test_a_value_beyond_rounding_is_found() -> None:
    module = Small(KINDS[2])
    images = np.random.default_rng(0).uniform(0, 2, (2, 1, 9, 9)).astype(np.float32)
    values = exported_values(module, images, oracle_levels(module, images))
    values["logits"][1, 1, 2, 3] += 1e-4
    found = compare_levels(module, images, values)
    assert (found.values_outside, found.unexplained) == (1, 0)
    assert found.largest_ratio > 1
    assert "logits: 1 of 324 values" in found.offenders[0]
