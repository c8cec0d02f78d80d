"""Shards: the same counts whatever shares, interrupts or resumes a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from apot_export.artifacts.directory import UNFINISHED, read_manifest
from apot_export.datasets import Dataset
from apot_export.errors import ExportError
from apot_export.verification.report import DIFFERENCE_EDGES, Flips
from apot_export.verification.running.accuracy import Comparison, Measured, merge
from apot_export.verification.running.shards import Sides, Unfinished, plan_shards, run_shards
from tests.support.commands import document
from tests.support.workshop import DIGITS, Workshop, open_workshop

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def workshop(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(project / DIGITS, tmp_path_factory.mktemp("shards"))


def counts(report: Any) -> dict[str, Any]:
    """Return all of a report's JSON but speeds, date and number of processes."""
    found: dict[str, Any] = json.loads(json.dumps(report))
    for side in (found["original"], found["export"], *found["sides"]):
        del side["images_per_second"]
    del found["date"]
    for name in ("processes", "torch_threads", "provider_options", "side_options"):
        del found["settings"][name]
    return found


# --- plans and sums -------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "batch"), [(1, 1), (10, 3), (761, 100), (50_000, 2), (5, 9)])
def test_shards_are_whole_batches_and_cover_everything_once(images: int, batch: int) -> None:
    shards = plan_shards(images, batch)
    assert [index for shard in shards for index in shard] == list(range(images))
    assert len(shards) <= 256
    assert all(len(shard) % batch == 0 for shard in shards[:-1])


def pretend(answers: dict[str, list[int]], skipped: tuple[int, ...] = ()) -> tuple[Dataset, Sides]:
    """Return images that are their own numbers, and executors with given answers."""
    images = np.arange(len(answers["label"]), dtype=np.float32).reshape(-1, 1, 1, 1)

    def load(index: int) -> Floats:
        if index in skipped:
            from apot_export.errors import DatasetError

            raise DatasetError("An image cannot be read.", got="damaged")
        return np.asarray(images[index])

    def executor(side: str) -> Callable[[Floats], Floats]:
        def run(batch: Floats) -> Floats:
            chosen = np.array(answers[side])[batch.reshape(-1).astype(int)]
            return np.eye(3, dtype=np.float32)[chosen]

        return run

    dataset = Dataset(name="d", root="", labels=np.array(answers["label"]), load=load)
    sides = Sides(
        original=lambda batch: executor("original")(batch.images),
        exports={"ort-cpu": executor("export")},
        twins={"convolution algorithm": executor("twin")},
        twin_images=4,
    )
    return dataset, sides


ANSWERS = {
    "label": [0, 1, 0, 1, 2, 2, 0],
    "original": [0, 1, 1, 0, 2, 1, 0],
    "export": [0, 0, 0, 1, 2, 1, 1],
    "twin": [0, 1, 1, 1, 0, 0, 0],
}


def run(dataset: Dataset, sides: Sides, batch: int, workers: int = 0) -> Measured:
    shards = dict(enumerate(plan_shards(len(dataset), batch)))
    found = dict(
        run_shards(
            dataset, sides, shards, batch_size=batch, workers=workers, progress=lambda *_: None
        )
    )
    return merge([found[number] for number in sorted(found)])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_what_is_counted(batch: int, workers: int) -> None:
    measured = run(*pretend(ANSWERS), batch, workers)
    (side,) = measured.compared(labelled=True)
    assert (measured.images, measured.original.top1, side.side.top1_hits) == (7, 4, 4)
    assert side.flips == Flips(original_only=2, export_only=2, probability=1)
    assert side.agreement == 3 / 7
    assert measured.flipped == [(1, 1, 0), (2, 1, 0), (3, 0, 1), (6, 0, 1)]
    # A difference of two logits by 1 for every image with another prediction.
    place = DIFFERENCE_EDGES.index(1.0) + 1
    assert (side.logit_differences[place], side.logit_differences[0]) == (8, 13)
    assert (side.largest_logit_difference, side.mean_logit_difference) == (1, 8 / 21)
    (yardstick,) = measured.yardsticks.values()
    assert (yardstick.images, yardstick.agreeing) == (4, 3)


def test_images_that_cannot_be_read_are_skipped_and_named() -> None:
    dataset, sides = pretend(ANSWERS, skipped=(1, 4, 5))
    measured = run(dataset, sides, 2)
    assert measured.images == 4
    assert [index for index, _ in measured.skipped] == [1, 4, 5]
    assert all("damaged" in reason for _, reason in measured.skipped)
    assert [index for index, _, _ in measured.flipped] == [2, 3, 6]


def test_the_digest_is_that_of_the_images_and_labels() -> None:
    whole = run(*pretend(ANSWERS), 2)
    assert whole.data_sha256 == run(*pretend(ANSWERS), 2).data_sha256
    relabelled = {**ANSWERS, "label": [0, 1, 0, 1, 2, 2, 1]}
    assert whole.data_sha256 != run(*pretend(relabelled), 2).data_sha256


def test_counts_survive_their_json_to_the_last_bit() -> None:
    measured = run(*pretend(ANSWERS, skipped=(3,)), 2)
    measured.sides["ort-cpu"].difference_sum = 0.1 + 0.2
    again = Measured.of_json(json.loads(json.dumps(measured.to_json())))
    assert again == measured


def test_logits_that_are_no_numbers_are_far_away() -> None:
    found = Comparison()
    logits = np.array([[0, 1, np.nan], [np.inf, 0, 0]], dtype=np.float32)
    right = np.array([True, False])
    found.add(np.zeros((2, 3), np.float32), logits, np.array([0, 0]), right, 0.1)
    assert found.differences[-1] == 2
    assert np.isfinite(found.difference_sum)
    assert found.largest > 1e38


# --- interrupted runs -----------------------------------------------------------------------------


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Return a function that lets runs stop after so many shards, as if killed."""
    original = run_shards

    def stop_after(most: int | None) -> None:
        def stopped(*args: Any, **options: Any) -> Iterator[Any]:
            for done, found in enumerate(original(*args, **options)):
                if done == most:
                    raise KeyboardInterrupt
                yield found

        monkeypatch.setattr("apot_export.verification._run.run_shards", stopped)

    return stop_after


def test_an_interrupted_run_is_resumed(
    workshop: Workshop, stopping: Callable[[int | None], None]
) -> None:
    options = {"limit": None, "batch_size": 20}
    whole = workshop.verify(workshop.export, **options).to_json()
    stopping(7)
    with pytest.raises(KeyboardInterrupt):
        workshop.verify(workshop.export, **options)
    (left,) = workshop.export.glob(f"{UNFINISHED}*")
    left.write_text(left.read_text() + '\n{"key": "cut o')
    seen: list[int] = []
    stopping(None)
    resumed = workshop.verify(
        workshop.export, resume=True, progress=lambda _, done, __: seen.append(done), **options
    )
    assert counts(resumed.to_json()) == counts(whole)
    assert max(seen) == 359 - 7 * 20
    assert not list(workshop.export.glob(f"{UNFINISHED}*"))


def test_a_run_of_another_kind_is_not_resumed(
    workshop: Workshop, stopping: Callable[[int | None], None]
) -> None:
    stopping(2)
    with pytest.raises(KeyboardInterrupt):
        workshop.verify(workshop.export, limit=None, batch_size=20)
    for other in ({"batch_size": 30}, {"batch_size": 20, "limit": 100}):
        with pytest.raises(ExportError, match="another one"):
            workshop.verify(workshop.export, **{"limit": None, **other}, resume=True)
    stopping(None)
    workshop.verify(workshop.export, limit=None, batch_size=30)
    assert len(list(workshop.export.glob(f"{UNFINISHED}*"))) == 1
    workshop.verify(workshop.export, limit=None, batch_size=20)
    assert not list(workshop.export.glob(f"{UNFINISHED}*"))


def test_damaged_lines_of_an_unfinished_run_are_not_believed(tmp_path: Path) -> None:
    unfinished = Unfinished(tmp_path, 0, {"key": 1})
    unfinished.add(3, run(*pretend(ANSWERS), 2))
    (path,) = tmp_path.glob(f"{UNFINISHED}*")
    whole = path.read_text()
    path.write_text(whole + "\n[]\n{}\nnull\n" + whole.replace('"shard": 3', '"shard": "x"'))
    assert list(unfinished.read()) == [3]
    with pytest.raises(ExportError, match="another one"):
        Unfinished(tmp_path, 0, {"key": 2}).read()
    assert Unfinished(tmp_path / "nowhere", 0, {"key": 2}).read() == {}


# --- several processes ----------------------------------------------------------------------------


def test_processes_under_torchrun_give_the_same_counts(workshop: Workshop, tmp_path: Path) -> None:
    command = ["verify", str(workshop.export), "--checkpoint", str(workshop.checkpoint)]
    command += ["--batch-size", "20", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("RANK", None)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    together = subprocess.run(
        [
            *(sys.executable, *launcher, "--standalone"),
            *("-m", "apot_export_cli.main", *command, "--json"),
        ],
        capture_output=True,
        env=environment,
        check=True,
        cwd=tmp_path,
    )
    both = json.loads(together.stdout)
    assert both["settings"]["processes"] == 2
    assert counts(both) == counts(document(*command))
    assert read_manifest(workshop.export)["verification"]["images"] == 359


# --- the manifest ---------------------------------------------------------------------------------


def test_the_verdict_is_attached_to_the_manifest(workshop: Workshop) -> None:
    manifest = workshop.export / "manifest.json"
    before = manifest.stat().st_mtime_ns
    report = workshop.verify(workshop.export, limit=40, seed=3)
    attached = read_manifest(workshop.export)["verification"]
    assert attached["verdict"] == "PASS"
    assert (attached["images"], attached["settings"]["seed"]) == (40, 3)
    assert attached["data_sha256"] == report.data_sha256
    assert attached["date"] == report.date
    assert manifest.stat().st_mtime_ns == before
    workshop.verify(workshop.export, limit=30, attach=False)
    assert read_manifest(workshop.export)["verification"] == attached


def test_a_directory_that_cannot_be_written_is_verified_all_the_same(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("apot_export.artifacts.atomic._locked_folder", refuse)
    report = workshop.verify(workshop.export)
    assert report.verdict == "PASS"
    assert "the verdict is not in the manifest: Permission denied" in report.notes
