"""Property tests as targets of fuzzers: what makes their examples, and where their files lie."""

from __future__ import annotations

import atexit
import random
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

LARGEST_INPUT = 2048
"""Bytes that an example is made of."""
MOST_MEMORY = 2 << 30
"""Bytes that examples may take beside what the process has: a file may ask for 256 MiB."""


def random_input(seed: int) -> bytes:
    return random.Random(seed).randbytes(LARGEST_INPUT)  # noqa: S311 - a test


def run_examples(check: Any, count: int) -> None:
    """Run a property on examples that are the same whenever, and beside whatever, it is run.

    Those that hypothesis chooses itself depend on the modules that are loaded.
    """
    run = check.hypothesis.fuzz_one_input
    with little_memory():
        for seed in range(count):
            try:
                run(random_input(seed))
            except BaseException as error:  # noqa: PERF203 - to name the seed
                raise AssertionError(f"the example of seed {seed} fails") from error


@contextmanager
def little_memory() -> Iterator[None]:
    """Let this process take little more memory than it has: more is a MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    size = pages * resource.getpagesize() + MOST_MEMORY
    if hard != resource.RLIM_INFINITY:
        size = min(size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def damaged(data: st.DataObject, content: bytes) -> bytes:
    """Return bytes that are cut, or have one byte more, or another bit or byte in one place."""
    place = data.draw(st.integers(0, max(0, len(content) - 1)))
    kind = data.draw(st.sampled_from(["cut", "one more", "bit", "bit", "byte", "byte"]))
    if kind == "cut" or not content:
        return content[:place]
    if kind == "one more":
        return content + b"\0"
    one = data.draw(st.integers(0, 255))
    changed = content[place] ^ 1 << one % 8 if kind == "bit" else one
    return content[:place] + bytes([changed]) + content[place + 1 :]


@cache
def scratch() -> Path:
    """Return a folder for the files of this process."""
    folder = tempfile.mkdtemp(prefix="apot-fuzz-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
