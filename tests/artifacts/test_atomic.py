"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from apot_export.artifacts.atomic import TEMPORARY, replacing, staged, temporary_folder


@pytest.fixture
def umask() -> Iterator[int]:
    """Return the umask of the test, an unusual one."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def fail(*_: object) -> None:
    raise OSError("no space left")


def write_file(path: Path, data: bytes) -> None:
    with replacing(path) as new:
        new.write_bytes(data)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_file_has_the_permissions_that_the_umask_allows(tmp_path: Path, umask: int) -> None:
    write_file(tmp_path / "new", b"data")
    assert (tmp_path / "new").read_bytes() == b"data"
    assert mode(tmp_path / "new") == 0o666 & ~umask


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    path.chmod(0o640)
    write_file(path, b"after")
    assert path.read_bytes() == b"after"
    assert mode(path) == 0o640


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_earlier_file_survives_a_failure(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with monkeypatch.context() as broken:
        broken.setattr(Path if step == "replace" else os, step, fail)
        with pytest.raises(OSError, match="no space"):
            write_file(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_with_its_parents(tmp_path: Path, umask: int) -> None:
    target = tmp_path / "new" / "folder"
    with staged(target, replace=False) as stage:
        (stage / "file").write_bytes(b"data")
        assert not target.exists()
    assert (target / "file").read_bytes() == b"data"
    assert mode(target) == 0o777 & ~umask


def test_a_failure_leaves_nothing_of_a_folder(tmp_path: Path) -> None:
    def write_half() -> None:
        with staged(tmp_path / "new" / "folder", replace=False) as stage:
            (stage / "file").write_bytes(b"data")
            fail()

    with pytest.raises(OSError, match="no space"):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_folder_survives_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "before").touch()
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no space"), staged(target, replace=True) as stage:
        (stage / "after").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "before"]


def test_a_folder_that_others_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "folder"

    def write_too_late() -> None:
        with staged(target, replace=False) as stage:
            (stage / "mine").touch()
            target.mkdir()
            (target / "theirs").touch()

    with pytest.raises(OSError, match="not empty"):
        write_too_late()
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "theirs"]


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_folders_of_the_living_stay_and_those_of_the_dead_go(tmp_path: Path) -> None:
    abandoned = tmp_path / f"{TEMPORARY}12345678"
    (abandoned / "folder").mkdir(parents=True)
    foreign = tmp_path / f"{TEMPORARY}note"
    foreign.touch()
    with temporary_folder(tmp_path) as first, temporary_folder(tmp_path) as second:
        assert sorted(tmp_path.iterdir()) == sorted([first, second, foreign])
    assert list(tmp_path.iterdir()) == [foreign]


def test_without_locks_nothing_is_taken_for_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandoned = tmp_path / f"{TEMPORARY}12345678"
    abandoned.mkdir()
    monkeypatch.setattr("fcntl.flock", fail)
    with temporary_folder(tmp_path) as folder:
        assert sorted(tmp_path.iterdir()) == sorted([abandoned, folder])
    assert list(tmp_path.iterdir()) == [abandoned]
