"""Fuzz for long: `python -m tests.fuzz --seconds 3600`, or with the name of one target.

Every property test of this folder is a target, and so is the C interpreter. Where atheris is
installed, it guides the examples to code that was not reached yet, and keeps in build/fuzz those
that reached some, from which the next run continues; elsewhere examples are random. The target
`bits`, which is run by name only, changes every single bit of the embedded export's packed file.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.fuzzing import LARGEST_INPUT, random_input, scratch

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
MOST_MEMORY = 8 << 30
LONGEST_EXAMPLE = 600
"""Seconds, among them those in which something else keeps the processor."""
STARTS = 64
"""Random inputs that a corpus begins with."""
PROGRAMS, BITS = "programs", "bits"


def targets() -> list[str]:
    """Return the names of all targets; property tests are called FILE.FUNCTION."""
    found = [PROGRAMS]
    for path in sorted(HERE.glob("test_*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        for before, line in itertools.pairwise(lines):
            if before.startswith("@given(") and line.startswith("def "):
                found.append(f"{path.stem}.{line.removeprefix('def ').partition('(')[0]}")
    return found


def property_of(name: str) -> Callable[[bytes], object]:
    """Return what runs a property test on the example that bytes stand for."""
    module, _, function = name.partition(".")
    test = getattr(importlib.import_module(f"tests.fuzz.{module}"), function)
    run: Callable[[bytes], object] = test.hypothesis.fuzz_one_input
    return run


def fuzz_property(name: str, corpus: Path, seconds: int) -> None:
    """Run a property test on new examples; an example that fails ends the process."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))

    try:
        import atheris  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        run, end = property_of(name), time.monotonic() + seconds
        while time.monotonic() < end:
            example = random.randbytes(LARGEST_INPUT)  # noqa: S311 - a test
            try:
                run(example)
            except BaseException:
                (corpus.parent / "crash").write_bytes(example)
                raise
        return
    for seed in range(STARTS if not any(corpus.iterdir()) else 0):
        (corpus / f"start{seed}").write_bytes(random_input(seed))
    loaded = sorted(module for module in sys.modules if module.startswith("apot_export"))
    assert not loaded, f"fuzzing is blind in what was imported before: {', '.join(loaded)}"
    with atheris.instrument_imports(include=["apot_export"]):
        run = property_of(name)
    options = [f"-max_total_time={seconds}", f"-timeout={LONGEST_EXAMPLE}", "-rss_limit_mb=0"]
    options += [f"-max_len={LARGEST_INPUT}", "-len_control=0", "-reduce_inputs=0"]
    options += [f"-artifact_prefix={corpus.parent}/", "-print_final_stats=1"]
    atheris.Setup([name, *options, str(corpus)], run)
    atheris.Fuzz()


def any_bit_missed() -> bool:
    """Read the embedded export with every single bit changed; tell what each reader missed."""
    from apot_export import convert
    from apot_export.artifacts.directory import PACKED_MODEL
    from tests.fuzz import test_flipped_bits as flips

    checkpoint = PROJECT / "examples" / "digits" / "res8_4bit" / "model_best.pth.tar"
    path = convert(checkpoint, scratch() / "export").path / PACKED_MODEL
    content = path.read_bytes()
    ranges = flips.ranges_of(content, 1, 1)
    found = {
        name: flips.missed(read, content, itertools.chain(*ranges))
        for name, read in flips.READERS.items()
    }
    if shutil.which("node"):
        found["JavaScript"] = flips.missed_in_javascript(path, ranges)
    for name, bits in found.items():
        sys.stdout.write(f"{name}: {len(bits)} of {8 * len(content)} bits missed {bits[:9]}\n")
    return any(found.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(targets())}")
    parser.add_argument("--seconds", type=int, default=3600, help="for all targets together")
    parser.add_argument("--corpus", type=Path, default=PROJECT / "build" / "fuzz")
    parser.add_argument("--input", type=Path, help="run a property on what it failed on, only")
    given = parser.parse_args()
    names = given.targets or targets()
    if names == [BITS]:
        return int(any_bit_missed())
    if unknown := set(names) - set(targets()):
        parser.error(f"unknown targets: {', '.join(sorted(unknown))}")
    if given.input:
        property_of(*names)(given.input.read_bytes())
        return 0
    seconds = max(1, given.seconds // len(names))
    failed = []
    for name in names:
        corpus = given.corpus / name / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        if name == PROGRAMS:
            from tests.fuzz.programs import fuzz_programs

            status = fuzz_programs(corpus, seconds)
        elif given.targets == [name]:
            fuzz_property(name, corpus, seconds)
            status = 0
        else:
            options = ["--seconds", str(seconds), "--corpus", str(given.corpus)]
            status = subprocess.run(
                [sys.executable, "-m", "tests.fuzz", name, *options], cwd=PROJECT, check=False
            ).returncode
        if status:
            failed.append(f"{name} (what failed is in {os.path.relpath(corpus.parent)})")
    if failed:
        sys.stderr.write(f"Failed: {'; '.join(failed)}\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
