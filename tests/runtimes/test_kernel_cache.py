"""The kernels' cache: one build for each user, which nobody else could have written."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from apot_export.errors import KernelError
from apot_export.runtimes.compiler import compiler_failure
from apot_export.runtimes.native import _cache, _library
from apot_export.runtimes.native._library import Library, compile_kernels, default_library


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_kernels(tmp_path_factory.mktemp("built"), ("-O0",))


@pytest.fixture
def builds(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Return the folders that libraries are built in, in a cache that is not there yet."""
    folders: list[Path] = []

    def build(folder: Path) -> Path:
        folders.append(folder)
        return Path(shutil.copy(built, folder))

    tmp_path.chmod(0o700)
    monkeypatch.setattr(_library, "compile_kernels", build)
    monkeypatch.setenv("APOT_EXPORT_CACHE", str(tmp_path / "cache"))
    default_library.cache_clear()
    yield folders
    default_library.cache_clear()


def library() -> Library:
    default_library.cache_clear()
    return default_library()


def test_the_library_is_compiled_once_into_a_folder_of_the_user(
    builds: list[Path], tmp_path: Path
) -> None:
    before = os.umask(0o002)
    try:
        for _ in range(2):
            assert "plain" in library().kernels
    finally:
        os.umask(before)
    (file,) = (tmp_path / "cache").rglob("*")
    assert len(builds) == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["cut", "changed", "writable"])
def test_a_library_that_is_not_what_was_written_is_never_loaded(
    damage: str, builds: list[Path], tmp_path: Path
) -> None:
    library()
    (file,) = (tmp_path / "cache").iterdir()
    data = file.read_bytes()
    if damage == "writable":
        file.chmod(0o777)
    else:
        file.unlink()  # this process has it mapped
        file.write_bytes(data[:-100] if damage == "cut" else data[:-1] + b"?")
    library()
    assert len(builds) == 2
    assert file.read_bytes() == data
    assert not file.stat().st_mode & 0o022


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
@pytest.mark.parametrize("place", ["cache", "."])
def test_a_folder_that_others_write_to_is_refused(
    mode: int, place: str, builds: list[Path], tmp_path: Path
) -> None:
    library()
    (tmp_path / place).chmod(mode)
    if place == "." and mode != 0o777:  # as /tmp, or the folders of a user with a group of its own
        library()
        return
    with pytest.raises(KernelError, match="Others could put native code") as caught:
        library()
    assert caught.value.where == str(tmp_path / place)
    (tmp_path / place).chmod(mode & ~0o022)  # as the error says
    library()
    assert len(builds) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners of this kind")
def test_a_folder_of_another_user_is_refused(
    builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    library()
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(KernelError, match="Others could put native code") as caught:
        library()
    assert f"owner {user}" in str(caught.value.got)
    assert len(builds) == 1


def test_a_link_to_a_folder_counts_as_the_folder(builds: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(tmp_path / "other" / "place", target_is_directory=True)
    (tmp_path / "other" / "place").mkdir(parents=True)
    library()
    (tmp_path / "other").chmod(0o777)
    with pytest.raises(KernelError, match="Others could put native code"):
        library()
    assert len(builds) == 1


def test_the_place_of_the_cache(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APOT_EXPORT_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for shared, place in (
        (str(tmp_path / "shared"), tmp_path / "shared" / "apot-export"),
        ("relative", tmp_path / "home" / ".cache" / "apot-export"),
        ("", tmp_path / "home" / ".cache" / "apot-export"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", shared)
        assert _cache._folder() == place

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(KernelError, match="no home folder") as caught:
        _cache._folder()
    assert "APOT_EXPORT_CACHE" in str(caught.value.fix)
    assert built.is_file()


@pytest.mark.usefixtures("builds")
def test_a_cache_that_cannot_be_written_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/apot-export")):
        monkeypatch.setenv("APOT_EXPORT_CACHE", str(place))
        with pytest.raises(KernelError, match="cache cannot be written") as caught:
            library()
        assert caught.value.where == str(place)
        assert "APOT_EXPORT_CACHE" in str(caught.value.fix)


def test_a_library_that_does_not_load_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "libapot.so"
    path.write_bytes(b"no library")
    with pytest.raises(KernelError, match="cannot be loaded") as caught:
        Library(path)
    assert caught.value.where == str(path)


def test_a_compiler_that_does_not_run_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "cc"
    for content in ("no program", "#!/bin/sh\necho broken >&2\nexit 3\n", "#!/bin/sh\nexit 3\n"):
        compiler.write_text(content)
        compiler.chmod(0o755)
        monkeypatch.setenv("CC", str(compiler))
        with pytest.raises(KernelError, match="refused a kernel") as caught:
            compile_kernels(tmp_path)
        assert any(word in str(caught.value.got) for word in ("Exec format", "broken", "code 3"))
    assert compiler_failure([str(tmp_path / "none")])
