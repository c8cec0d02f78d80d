"""Run as a program: run random networks through kernels that check every access to memory."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from apot_export.network import CodedNetwork
from apot_export.network.codebook import apot
from apot_export.runtimes.native import compile_network
from apot_export.runtimes.native._library import Library, compile_kernels
from tests.support.native_checks import byte_levels, differences, signed_byte_levels
from tests.support.networks import Builder, images_of, quantizer
from tests.support.random_coded_networks import INPUTS, plane_network, random_network

CHECKED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def transformed(size: tuple[int, int]) -> CodedNetwork:
    """Return a network whose convolution takes its sums by Winograd's algorithm."""
    builder = Builder(image=(64, *size))
    levels = quantizer(apot(4, signed=False), 0.9)
    value = builder.convolution("image", 32, (3, 3), apot(3, signed=True), levels, padding=(1, 1))
    return builder.finished(value)


def main() -> None:
    """Compile into the folder that is given, run, and print how much ran."""
    flags = CHECKED if os.environ.get("CHECKED") else ("-O1",)
    library = Library(compile_kernels(Path(sys.argv[1]), flags))
    INPUTS[:] = byte_levels()
    networks = [*(random_network(seed) for seed in range(5)), plane_network(0)]
    networks += [random_network(seed, signed_byte_levels()) for seed in range(3)]
    networks += [transformed(size) for size in ((7, 7), (6, 15))]
    compared = 0
    for network in networks:
        for kernels in library.kernels:
            fast = compile_network(network, threads=2, kernels=kernels, library=library)
            compared += sum(differences(network, fast, images_of(network, 2)).values())
    print(json.dumps({"networks": len(networks), "compared": compared}))  # noqa: T201 - its result


if __name__ == "__main__":
    main()
