"""Identification: what a checkpoint says, and which quantization its images speak for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from apot_export.datasets import kind_by_name
from apot_export.errors import DatasetError
from apot_export.inspection.identify import Hypothesis, Identification, hypotheses, identify
from apot_export.inspection.identify._trials import (
    Trial,
    mean_test,
    run_stages,
    sign_test,
    told_apart,
    wilson,
)
from apot_export.original import families
from apot_export.original.checkpoint import load_checkpoint
from apot_export.original.published import load_original
from apot_export.original.quantized_layers import QuantConv2d

DIGITS = "examples/digits/res8_4bit/model_best.pth.tar"


def silent(_what: str, _done: int, _total: int) -> None:
    """Report nothing."""


def trial(correct: list[bool], losses: list[float]) -> Trial:
    return Trial(hypotheses=(), correct=np.array(correct), losses=np.array(losses))


def best_first(
    checkpoint: Path, name: str, data: Path, limit: int, *tried: Hypothesis
) -> list[Trial]:
    """Try some hypotheses on a published checkpoint and rank them."""
    loaded = load_checkpoint(checkpoint)
    trials = [Trial(hypotheses=(hypothesis,)) for hypothesis in tried]
    key = families.recognise(loaded.keys).preprocessing
    run_stages(trials, loaded, kind_by_name(name).open(data, key).first(limit), silent)
    return sorted(trials, key=lambda one: one.rank)


# --- hypotheses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "groups", "count"),
    [("apot-v1", 28, 30), ("apot-v2", 42, 44), ("nonzero", 14, 14), ("alq", 1, 1)],
)
def test_every_offered_quantization_is_a_hypothesis(family: str, groups: int, count: int) -> None:
    found = hypotheses(families.by_name(family))
    assert len(found) == groups
    every = [hypothesis for group in found for hypothesis in group]
    assert len(every) == len(set(every)) == count


def test_only_identical_functions_are_merged() -> None:
    merged = [group for group in hypotheses(families.by_name("apot-v2")) if len(group) > 1]
    assert [[str(hypothesis) for hypothesis in group] for group in merged] == [
        ["2-bit apot", "2-bit pot"],
        ["2-bit apot, weights not normalised", "2-bit pot, weights not normalised"],
    ]


def test_the_grid_without_zero_belongs_to_two_bits() -> None:
    every = [group[0] for group in hypotheses(families.by_name("nonzero"))]
    assert {h.z for h in every if h.grid == "nonzero"} == {1, 2, 3, 4}
    assert {h.bits for h in every if h.grid == "nonzero"} == {2}


def test_the_legacy_divisor_belongs_to_uniform_levels_of_the_second_version() -> None:
    for family, expected in (("apot-v1", set[str]()), ("apot-v2", {"uniform"})):
        every = [h for group in hypotheses(families.by_name(family)) for h in group]
        assert {h.method for h in every if h.legacy_divisor} == expected


@pytest.mark.parametrize("folder", ["res32_2bit", "res20_3bit"])
def test_every_hypothesis_can_be_rebuilt(reference: Path, folder: str) -> None:
    path = next((reference / "checkpoints").glob(f"*/result/**/{folder}/model_best.pth.tar"))
    family = families.recognise(load_checkpoint(path).keys)
    for hypothesis in (h for group in hypotheses(family) for h in group):
        original = load_original(path, hypothesis.choices())
        layer = next(m for m in original.module.modules() if isinstance(m, QuantConv2d))
        quantization = layer.quantization
        assert (quantization.weight_bits, quantization.method) == (
            hypothesis.bits,
            hypothesis.method,
        )
        assert quantization.grid == hypothesis.grid
        assert quantization.z == (hypothesis.z or 2)
        assert quantization.normalize_weights == hypothesis.normalize_weights


# --- statistics -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wins", "losses", "verdict"),
    [
        (0, 0, 0),
        (9, 0, 0),  # 2 / 2 ** 9 = 0.0039
        (10, 0, 1),  # 2 / 2 ** 10 = 0.0020
        (0, 10, -1),
        (100, 100, 0),
        (3000, 2000, 1),  # beyond the range of floats, if it were not for integers
    ],
)
def test_signs_are_compared_exactly(wins: int, losses: int, verdict: int) -> None:
    assert sign_test(wins, losses) == verdict


def test_means_are_compared_with_their_standard_error() -> None:
    noise = np.resize([-1.0, 1.0], 100)  # standard error 0.1005
    assert [mean_test(noise + shift) for shift in (0.0, 0.29, 0.31, -0.31)] == [0, 0, 1, -1]
    assert mean_test(np.ones(29)) == 0
    assert mean_test(np.zeros(100)) == 0


@pytest.mark.parametrize("right", [0, 7, 40])
def test_the_wilson_interval_solves_its_equation(right: int) -> None:
    correct: NDArray[np.bool_] = np.arange(40) < right
    rate = right / 40
    for bound in wilson(correct):
        assert (rate - bound) ** 2 == pytest.approx(9 * bound * (1 - bound) / 40, abs=1e-12)


def test_contradicting_evidence_tells_nothing_apart() -> None:
    right, wrong = [True] * 40, [False] * 20 + [True] * 20
    assert told_apart(trial(right, [1.0] * 40), trial(wrong, [1.0] * 40))
    assert told_apart(trial(right, [1.0] * 40), trial(right, [2.0] * 40))
    assert not told_apart(trial(right, [2.0] * 40), trial(wrong, [1.0] * 40))
    assert not told_apart(trial(right, [1.0] * 40), trial(right, [1.0] * 40))


# --- checkpoints ----------------------------------------------------------------------------------


def test_without_images_names_and_gaps_are_told(reference: Path) -> None:
    path = (
        reference
        / "checkpoints/Enhanced-Quantization/result/cifar100/res32_2bit/model_best.pth.tar"
    )
    found = identify(path)
    assert (found.family, found.architecture) == ("nonzero", "ResNet-32 (CIFAR)")
    assert (found.named.bits, found.named.bits_from) == (2, "folder name")
    assert found.measurement is None
    assert any("Z" in gap for gap in found.unknown)


def test_a_full_precision_checkpoint_leaves_nothing_open(reference: Path) -> None:
    found = identify(reference / "checkpoints/CIFAR10/result/res20_32bit/model_best.pth.tar")
    assert (found.family, found.unknown) == ("full-precision", ())


def test_contradicting_names_say_nothing(project: Path, tmp_path: Path) -> None:
    path = tmp_path / "res8_4bit_3bit.pth.tar"
    shutil.copy(project / DIGITS, path)
    assert identify(path).named.bits is None


@pytest.fixture(scope="session")
def digits(project: Path) -> Identification:
    return identify(project / DIGITS, dataset="digits", limit=100)


def test_all_hypotheses_are_ranked(digits: Identification) -> None:
    assert digits.measurement is not None
    candidates = digits.measurement.candidates
    tried = [h for candidate in candidates for h in candidate.hypotheses]
    assert set(tried) == {h for g in hypotheses(families.by_name(digits.family)) for h in g}
    keys = [(-c.images, -c.top1, c.loss) for c in candidates]
    assert keys == sorted(keys)
    assert [c.dropped for c in candidates] == [c.images < 100 for c in candidates]
    assert candidates[0].tied
    assert not any(c.tied for c in candidates if c.dropped)
    named = [c for c in candidates if c.named]
    assert [str(c.hypotheses[0]) for c in named] == ["4-bit apot"]
    assert named[0].tied


def test_the_same_images_give_the_same_ranking(digits: Identification, project: Path) -> None:
    again = identify(project / DIGITS, dataset="digits", limit=100)
    assert digits.measurement is not None
    assert again.measurement is not None
    assert [(c.hypotheses, c.top1) for c in again.measurement.candidates] == [
        (c.hypotheses, c.top1) for c in digits.measurement.candidates
    ]


def test_the_result_is_json(digits: Identification) -> None:
    assert json.loads(json.dumps(digits.to_json(), allow_nan=False)) == digits.to_json()


def test_progress_counts_hypotheses(project: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    identify(
        project / DIGITS, dataset="digits", limit=20, progress=lambda *event: seen.append(event)
    )
    total = seen[0][2]
    assert seen == [("20 images", done, total) for done in range(total + 1)]


def test_a_dataset_that_does_not_fit_is_an_error(project: Path) -> None:
    with pytest.raises(DatasetError, match="does not fit") as caught:
        identify(project / DIGITS, dataset="mnist")
    assert caught.value.got == "images [1, 28, 28], 10 classes"


def test_uniform_levels_are_told_from_additive_ones(reference: Path) -> None:
    uniform = Hypothesis(bits=4, method="uniform")
    additive = Hypothesis(bits=4, method="apot")
    ranked = best_first(
        reference / "checkpoints/MNIST/result/resnet10_4bit_uniform/model_best.pth.tar",
        "mnist",
        reference / "datasets/MNIST",
        2000,
        additive,
        uniform,
    )
    assert [one.hypotheses[0] for one in ranked] == [uniform, additive]


def test_additive_levels_of_the_right_bits_come_first(reference: Path) -> None:
    right = Hypothesis(bits=3, method="apot")
    others = [Hypothesis(bits=bits, method="apot") for bits in (2, 4)]
    others += [Hypothesis(bits=3, method=method) for method in ("pot", "uniform")]
    others += [Hypothesis(bits=3, method="apot", normalize_weights=False)]
    ranked = best_first(
        reference / "checkpoints/MNIST/result/resnet10_3bit/model_best.pth.tar",
        "mnist",
        reference / "datasets/MNIST",
        200,
        *others,
        right,
    )
    assert ranked[0].hypotheses[0] == right
    assert {str(one.hypotheses[0]) for one in ranked if one.dropped} == {
        "2-bit apot",
        "3-bit apot, weights not normalised",
    }


@pytest.mark.parametrize(
    ("checkpoint", "dataset", "data", "bits"),
    [
        ("MNIST/result/resnet10_5bit", "mnist", "MNIST", 5),
        ("CIFAR10/result/res20_3bit", "cifar10", "cifar10-test-head", 3),
    ],
)
def test_the_right_hypothesis_is_never_told_apart_from_the_best(
    reference: Path, checkpoint: str, dataset: str, data: str, bits: int
) -> None:
    right = Hypothesis(bits=bits, method="apot")
    ranked = best_first(
        reference / "checkpoints" / checkpoint / "model_best.pth.tar",
        dataset,
        reference / "datasets" / data,
        40,
        right,
        Hypothesis(bits=2, method="apot"),
        Hypothesis(bits=3, method="pot"),
        Hypothesis(bits=4, method="uniform"),
    )
    found = next(one for one in ranked if one.hypotheses[0] == right)
    assert not found.dropped
    assert not told_apart(ranked[0], found)


# --- command line ---------------------------------------------------------------------------------


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "apot_export_cli.main", "inspect", "identify", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=project)


def test_the_verb_shows_the_ranking_and_its_rule(project: Path) -> None:
    result = run(project, DIGITS, "--dataset", "digits", "--limit", "40")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "not in the file" in result.stdout
    assert "40 of 359 images of digits" in result.stdout
    assert "three standard errors" in " ".join(result.stdout.split())
    assert "what the names say" in result.stdout


def test_the_verb_prints_one_json_document(project: Path) -> None:
    result = run(project, DIGITS, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["named"]["bits"] == 4
