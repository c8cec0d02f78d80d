"""Run as a program: run random networks through kernels that check every access to memory."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

from apot_export.artifacts.packed import load_packed
from apot_export.errors import KernelError, PackedFileError
from apot_export.network import CodedNetwork
from apot_export.network.codebook import apot
from apot_export.runtimes.native import compile_network
from apot_export.runtimes.native._library import Library
from apot_export.runtimes.native._lower import lower
from tests.support.emulated_tiles import emulating_library
from tests.support.native_checks import byte_levels, differences, signed_byte_levels
from tests.support.networks import Builder, images_of, quantizer
from tests.support.packed_parts import changed_files, is_small, sound_files
from tests.support.plans import OK, changed_plans, opened, run
from tests.support.random_coded_networks import INPUTS, plane_network, random_network
from tests.support.sanitizers import VARIABLE, flags

CHANGED_FILES = 60
CHANGED_PLANS = 30


def transformed(size: tuple[int, int]) -> CodedNetwork:
    """Return a network whose convolution takes its sums by Winograd's algorithm."""
    builder = Builder(image=(64, *size))
    levels = quantizer(apot(4, signed=False), 0.9)
    value = builder.convolution("image", 32, (3, 3), apot(3, signed=True), levels, padding=(1, 1))
    return builder.finished(value)


def main() -> None:
    """Compile into the folder that is given, run, and print how much ran."""
    folder = Path(sys.argv[1])
    library = emulating_library(folder, *flags("-O1"))
    INPUTS[:] = byte_levels()
    networks = [*(random_network(seed) for seed in range(5)), plane_network(0)]
    networks += [random_network(seed, signed_byte_levels()) for seed in range(3)]
    networks += [transformed(size) for size in ((7, 7), (6, 15))]
    compared = 0
    for index, network in enumerate(networks):
        for kernels in library.kernels[index % 2 :: 2]:  # each runs half of every kind
            fast = compile_network(network, threads=2, kernels=kernels, library=library)
            compared += sum(differences(network, fast, images_of(network, 2)).values())
    files = 0
    for content in (*sound_files().values(), *changed_files(CHANGED_FILES)):
        found = read(folder / "file", content)
        if found and is_small(found.shapes):
            with suppress(KernelError), np.errstate(all="ignore"):
                compile_network(found, threads=2, library=library).run(images_of(found, 2))
                files += 1
    counts = {"networks": len(networks), "compared": compared, "files": files}
    if os.environ[VARIABLE] != "thread":  # changed plans are run by one thread, which cannot race
        counts |= run_changed_plans(library, networks)
    print(json.dumps(counts))  # noqa: T201 - its result


def run_changed_plans(library: Library, networks: list[CodedNetwork]) -> dict[str, int]:
    """Run plans that were changed and yet are taken for sound; count these, and those refused."""
    counts = {"refused plans": 0, "sound plans": 0}
    for seed, network in enumerate(networks):
        for plan in changed_plans(lower(network).plan(), seed, CHANGED_PLANS):
            status, handle = opened(library, plan)
            counts["sound plans" if status == OK else "refused plans"] += 1
            if status == OK:
                run(library, handle, 3, 1)
                library.functions.apot_close(handle)
    return counts


def read(path: Path, content: bytes) -> CodedNetwork | None:
    path.write_bytes(content)
    try:
        return load_packed(path).check().network
    except PackedFileError:
        return None


if __name__ == "__main__":
    main()
