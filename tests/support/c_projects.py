"""C projects of integer networks: written, built, run, and searched for multiplications."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apot_export.devices.c.emit import project
from apot_export.devices.export import OpenExport
from apot_export.devices.vectors import chosen_images
from apot_export.integer import Pixels, lower, run_integer
from apot_export.network import CodedNetwork
from tests.support import simulators

SANITIZED = "CFLAGS=-fsanitize=address,undefined -fno-sanitize-recover=all -g"


def opened(coded: CodedNetwork, bits: int = 8, pixels: Pixels | None = None) -> OpenExport:
    network = lower(coded, fraction_bits=bits, pixels=pixels)
    return OpenExport(path=Path("export"), name="n", manifest={}, coded=coded, network=network)


def write(source: OpenExport, folder: Path, images: int = 2) -> NDArray[np.int64]:
    """Write a project, and return the logits of its samples."""
    read = chosen_images(source.network, images)
    files, _ = project(source, read)
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return run_integer(source.network, read).reshape(images, -1)


def assert_passes(folder: Path, logits: NDArray[np.int64], *arguments: str) -> None:
    said = simulators.make(folder, *arguments)
    printed = re.findall(r"^logits (.*)$", said, re.MULTILINE)
    assert [[int(one) for one in line.split()] for line in printed] == logits.tolist()
    assert said.splitlines()[-1] == "PASS"


def assert_same(coded: CodedNetwork, folder: Path, bits: int = 8) -> None:
    logits = write(opened(coded, bits), folder)
    assert_passes(folder, logits, "run-host", "OPTIMISE=-O0", SANITIZED)


MACHINES = {
    "rv32i": ("riscv64-unknown-elf-gcc", "qemu-system-riscv32"),
    "cortex-m0plus": ("arm-none-eabi-gcc", "qemu-system-arm"),
    "cortex-m3": ("arm-none-eabi-gcc", "qemu-system-arm"),
    "cortex-m4": ("arm-none-eabi-gcc", "qemu-system-arm"),
}
BIG_ENDIAN = ("CC=mips-linux-gnu-gcc -static", "host_RUN=qemu-mips")
SHIFTING = ["host", "host-clang", "rv32i", "cortex-m0plus", "cortex-m3", "cortex-m4", "mips"]
DISASSEMBLERS = {
    "rv32i": "riscv64-unknown-elf-objdump",
    "cortex-m0plus": "arm-none-eabi-objdump",
    "cortex-m3": "arm-none-eabi-objdump",
    "cortex-m4": "arm-none-eabi-objdump",
    "mips": "mips-linux-gnu-objdump",
}
OF_BUILDS = {
    "host-clang": ["host", "CC=clang"],
    "cortex-m4": ["cortex-m4", "cortex-m4_FLAGS=-mcpu=cortex-m4 -mthumb -DAPOT_NO_MULTIPLY"],
    "mips": ["host", "CC=mips-linux-gnu-gcc -static"],
}
PRODUCT = re.compile(
    r"\t(v?p?i?mul\w*|ml[as]\w*|[su]ml?[au]\w*|v?pm(ul|add)\w*|[isu]?div\w*|mf(lo|hi)|madd\w*|rem\w*)\s"
    r"|<__(aeabi_)?(u|i|l|ul|ui)*(div|mul|mod)\w*>"
)


def assert_no_products(folder: Path, build: str) -> None:
    """Search the object code of a project for instructions and calls that multiply or divide."""
    compilers = {"mips": "mips-linux-gnu-gcc", "host": "gcc", "host-clang": "clang"}
    simulators.require("make", compilers.get(build) or MACHINES[build][0])
    target, *arguments = OF_BUILDS.get(build, [build])
    for level in ("-Os", "-O1", "-O2", "-O3"):
        simulators.make(folder, "clean")
        simulators.make(folder, f"objects-{target}", f"OPTIMISE={level}", *arguments)
        for name in ("model.o", "apot_kernels.o"):
            path = folder / "build" / target / name
            done = simulators.call(folder, DISASSEMBLERS.get(build, "objdump"), "-dr", str(path))
            assert "<apot_run>:" in done.stdout or "<apot_convolve>:" in done.stdout
            assert [line for line in done.stdout.splitlines() if PRODUCT.search(line)] == [], level
