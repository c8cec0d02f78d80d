"""Finished shards of an unfinished run, on disk, so that it can be resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from apot_export.artifacts.directory import UNFINISHED
from apot_export.errors import ExportError
from apot_export.verification.running.accuracy import Measured

_NAMED_DIGITS = 12
"""Digits of a run's key that its files are named after."""


def key_of(facts: Mapping[str, Any]) -> str:
    """Return what tells one run from another: SHA-256 of everything that its counts depend on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Unfinished:
    """The files of a run in an export directory: a line of JSON per finished shard.

    Every process of every kind of run has a file of its own. Where the directory cannot be written,
    the run goes on and cannot be resumed.
    """

    def __init__(self, directory: Path, rank: int, key: str) -> None:
        self._directory = directory
        self._path = directory / f"{UNFINISHED}{key[:_NAMED_DIGITS]}.{rank}.jsonl"
        self._key = key
        self.kept = True
        """Whether finished shards reach the disk."""

    def read(self) -> dict[int, Measured]:
        """Return the finished shards of all processes, by number.

        Raises:
            ExportError: There are only those of runs with other settings.
        """
        found: dict[int, Measured] = {}
        for path in self._files():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                # A process may have been killed in the middle of its last line.
                with suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    if entry["key"] == self._key:
                        found[int(entry["shard"])] = Measured.of_json(entry["counts"])
        others = sorted(self._directory.glob(f"{UNFINISHED}*.jsonl"))
        if others and not self._files():
            raise ExportError(
                "The unfinished run was another one: other files, images or settings.",
                where=", ".join(str(path) for path in others),
                expected="the same command line, export, images and versions",
                fix="repeat that command with --resume, or leave --resume out to start anew",
            )
        return found

    def clear(self) -> None:
        """Forget finished shards: those of an abandoned run, or of this one when it is done."""
        for path in self._files():
            with suppress(OSError):
                path.unlink()

    def add(self, shard: int, counts: Measured) -> None:
        """Write down a finished shard."""
        line = json.dumps({"key": self._key, "shard": shard, "counts": counts.to_json()})
        try:
            with self._path.open("a", encoding="utf-8") as file:
                # The line before this one may have been cut off.
                file.write(f"\n{line}\n")
        except OSError:
            self.kept = False

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob(f"{UNFINISHED}{self._key[:_NAMED_DIGITS]}.*.jsonl"))
