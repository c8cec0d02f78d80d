"""The tensors of a mapped file, each checked when it is first used."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from apot_export.errors import PackedFileError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

T = TypeVar("T")


class StoredTensors(Mapping[str, "NDArray[Any]"]):
    """Read-only views of the tensors of a mapped file, in file order.

    Taking a tensor reads all of it once, to compare it with its checksum. Until then nothing of it
    is read. Floats must be finite.
    """

    def __init__(
        self,
        path: Path,
        views: Mapping[str, NDArray[Any]],
        checksums: Mapping[str, str],
        padding: Mapping[str, memoryview],
    ) -> None:
        """Hold views of a file, their CRC-32 in hexadecimal digits, and what lies between."""
        self._path = path
        self._views = views
        self._unchecked = dict(checksums)
        self._padding = padding

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return a tensor.

        Raises:
            PackedFileError: It is damaged.
            KeyError: There is none of this name.
        """
        view = self._views[name]
        stated = self._unchecked.get(name)
        if stated is not None:
            self._check(name, view, stated)
            # Another thread may have been first.
            self._unchecked.pop(name, None)
        return view

    def unread(self, name: str) -> NDArray[Any]:
        """Return a tensor of which nothing is checked, for its type and shape.

        Raises:
            KeyError: There is none of this name.
        """
        return self._views[name]

    def deferred(self, name: str, make: Callable[[NDArray[Any]], T]) -> Callable[[], T]:
        """Return a function that makes something of a tensor, and calls it damaged if that fails.

        Args:
            name: The tensor.
            make: Raises `ValueError` where the tensor is not what it must be.
        """

        def read() -> T:
            try:
                return make(self[name])
            except ValueError as error:
                raise self.malformed(name, str(error)) from error

        return read

    def malformed(self, name: str, got: str) -> PackedFileError:
        """Return the error of a tensor that has its checksum, but no meaning."""
        return PackedFileError(
            "The packed file's network is not well formed.",
            where=f"{self._path}: {name}",
            expected="a network as FORMAT.md describes",
            got=got,
        )

    def check_all(self) -> None:
        """Read everything.

        Raises:
            PackedFileError: A tensor is damaged, or padding is not 0.
        """
        for name, content in self._padding.items():
            if any(content):
                raise damaged(self._path, f"zeros in {name}", bytes(content).hex())
        for name in self:
            self[name]

    def _check(self, name: str, view: NDArray[Any], stated: str) -> None:
        found = f"{zlib.crc32(view.data):08x}"
        if found != stated:
            raise PackedFileError(
                "A tensor of the packed file is damaged.",
                where=f"{self._path}: {name}",
                expected=f"CRC-32 {stated}",
                got=f"CRC-32 {found}",
                fix="copy the file again, or convert the checkpoint again",
            )
        if view.dtype != np.uint8 and not np.isfinite(view).all():
            raise self.malformed(name, "values that are not finite")


def damaged(path: Path, expected: str, got: str) -> PackedFileError:
    """Return the error of a file that is not what its writer left."""
    return PackedFileError(
        "The packed file is truncated or damaged.",
        where=str(path),
        expected=expected,
        got=got,
        fix="copy the file again, or convert the checkpoint again",
    )
