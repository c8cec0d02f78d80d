"""Run as a program: run random networks through kernels that check every access to memory."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from apot_export.fast import compile_network
from apot_export.fast._native import Library, compile_kernels
from tests import _random_integer_networks
from tests._fast_checks import byte_levels, differences
from tests._random_integer_networks import images_of, plane_network, random_network

CHECKED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def main() -> None:
    """Compile into the folder that is given, run, and print how much ran."""
    flags = CHECKED if os.environ.get("CHECKED") else ("-O1",)
    library = Library(compile_kernels(Path(sys.argv[1]), flags))
    _random_integer_networks.INPUTS[:] = byte_levels()
    networks = [*(random_network(seed) for seed in range(10)), *map(plane_network, range(2))]
    compared = 0
    for network in networks:
        for kernels in library.kernels:
            fast = compile_network(network, threads=2, kernels=kernels, library=library)
            compared += sum(differences(network, fast, images_of(network, 2)).values())
    print(json.dumps({"networks": len(networks), "compared": compared}))  # noqa: T201 - its result


if __name__ == "__main__":
    main()
