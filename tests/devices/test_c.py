"""C projects of integer networks: the oracle's logits, here and in emulators."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from apot_export.devices.c.emit import project
from apot_export.devices.export import open_export
from apot_export.devices.vectors import chosen_images
from apot_export.errors import BoundError
from apot_export.integer import Pixels, lower, run_integer
from apot_export.network import CodedNetwork
from apot_export.network.codebook import Codebook, apot
from tests.support import simulators
from tests.support.c_projects import (
    BIG_ENDIAN,
    MACHINES,
    PRODUCT,
    SANITIZED,
    SHIFTING,
    assert_no_products,
    assert_passes,
    assert_same,
    opened,
    write,
)
from tests.support.commands import EXPORT, run
from tests.support.published import Shelf
from tests.support.random_coded_networks import (
    INPUTS,
    SIGNED_INPUTS,
    WEIGHTS,
    random_network,
    two_layers,
)


def largest_fraction_bits(coded: CodedNetwork) -> int:
    """Return what `convert --integer` takes where it has no calibration images."""
    for bits in range(23, 0, -1):
        with suppress(BoundError):
            lower(coded, fraction_bits=bits)
            return bits
    raise AssertionError


# --- the same logits ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_random_networks(seed: int, tmp_path: Path) -> None:
    assert_same(random_network(seed), tmp_path, bits=10 if seed % 2 else 4)


@pytest.mark.parametrize("seed", range(4))
def test_random_networks_of_many_fraction_bits(seed: int, tmp_path: Path) -> None:
    coded = random_network(seed)
    assert_same(coded, tmp_path, largest_fraction_bits(coded))


@pytest.mark.parametrize("seed", range(4))
def test_random_networks_of_signed_levels(seed: int, tmp_path: Path) -> None:
    assert_same(random_network(seed, SIGNED_INPUTS), tmp_path, bits=2)


@pytest.mark.parametrize("book", WEIGHTS, ids=lambda book: f"{book.tables}{book.signed}")
def test_every_codebook_of_weights(book: Codebook, tmp_path: Path) -> None:
    assert_same(two_layers(book, apot(3, signed=False), 1), tmp_path)


@pytest.mark.parametrize("book", INPUTS, ids=lambda book: f"{book.tables}{book.signed}")
def test_every_codebook_of_inputs(book: Codebook, tmp_path: Path) -> None:
    assert_same(two_layers(apot(2, signed=True), book, 2), tmp_path)


def test_pixels(tmp_path: Path) -> None:
    pixels = Pixels(mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
    source = opened(two_layers(apot(3, signed=True), apot(3, signed=False), 3), pixels=pixels)
    assert_passes(tmp_path, write(source, tmp_path), "run-host", SANITIZED)
    assert "typedef uint8_t apot_pixel;" in (tmp_path / "model.h").read_text()


def test_a_wrong_logit_is_found(tmp_path: Path) -> None:
    write(opened(two_layers(apot(3, signed=True), apot(3, signed=False), 3)), tmp_path)
    samples = tmp_path / "samples.h"
    text = samples.read_text()
    last = re.findall(r"-?\d+(?=,\n    \},\n\};)", text)[-1]
    at = text.rindex(last)
    samples.write_text(text[:at] + str(int(last) + 1) + text[at + len(last) :])
    done = simulators.call(tmp_path, "make", "run-host")
    assert done.returncode
    assert f"FAIL: sample 1, logit 3: expected {int(last) + 1}, got {last}" in done.stdout


# --- compilers and machines -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, exported: Path) -> tuple[Path, Any]:
    """Return the project of the digits network, and the logits of its samples."""
    folder = tmp_path_factory.mktemp("c") / "digits"
    assert run("emit", "c", exported / EXPORT, "-o", folder).exit_code == 0
    network = open_export(exported / EXPORT).network
    logits = run_integer(network, chosen_images(network, 2, None, exported / EXPORT))
    return folder, logits


@pytest.mark.parametrize("level", ["-Os", "-O3"])
@pytest.mark.parametrize("machine", MACHINES)
def test_emulated_machines(machine: str, level: str, digits: tuple[Path, Any]) -> None:
    simulators.require("make", *MACHINES[machine])
    folder, logits = digits
    simulators.make(folder, "clean")
    assert_passes(folder, logits, f"run-{machine}", f"OPTIMISE={level}")


def test_a_big_endian_machine(digits: tuple[Path, Any]) -> None:
    simulators.require("mips-linux-gnu-gcc", "qemu-mips")
    folder, logits = digits
    simulators.make(folder, "clean")
    assert_passes(folder, logits, "run-host", *BIG_ENDIAN)


@pytest.mark.parametrize("build", SHIFTING)
def test_nothing_multiplies_or_divides(build: str, digits: tuple[Path, Any]) -> None:
    assert_no_products(digits[0], build)


def test_products_are_found_where_they_are_allowed(digits: tuple[Path, Any]) -> None:
    folder, _ = digits
    simulators.make(folder, "clean")
    simulators.make(folder, "objects-host", "host_FLAGS=")
    done = simulators.call(folder, "objdump", "-dr", "build/host/apot_kernels.o")
    assert PRODUCT.search(done.stdout)


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_the_sources_are_cpp_too(compiler: str, digits: tuple[Path, Any]) -> None:
    simulators.require("make", compiler)
    folder, logits = digits
    simulators.make(folder, "clean")
    language = f"CC={compiler} -x c++"
    assert_passes(folder, logits, "run-host", language, "STRICT=-std=c++11 -Wall -Wextra -Werror")


# --- published networks ---------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4])
def test_published_resnets_on_microcontrollers(bits: int, shelf: Shelf, tmp_path: Path) -> None:
    simulators.require("make", *(program for pair in MACHINES.values() for program in pair))
    source = opened(shelf.network(f"cifar10_res20_{bits}bit"))
    logits = write(source, tmp_path, 1)
    for machine in ("host", *MACHINES):
        assert_passes(tmp_path, logits, f"run-{machine}")
    simulators.make(tmp_path, "clean")
    assert_passes(tmp_path, logits, "run-host", *BIG_ENDIAN)
    _, found = project(source, chosen_images(source.network, 1))
    assert found["workspace_bytes"] <= 96 << 10
    assert found["instructions"] < 200e6


def test_the_most_fraction_bits_that_cannot_overflow(shelf: Shelf, tmp_path: Path) -> None:
    coded = shelf.network("cifar10_res20_4bit")
    assert_same(coded, tmp_path, largest_fraction_bits(coded))


# --- memory ---------------------------------------------------------------------------------------


def test_a_small_device_is_an_error(digits: tuple[Path, Any], exported: Path) -> None:
    export, folder = exported / EXPORT, digits[0].parent / "small"
    done = run("emit", "c", export, "-o", folder, "--ram", "4k")
    assert done.exit_code == 2
    assert re.search(r"needs more RAM .* bytes, [\d,]+ too many", " ".join(done.stderr.split()))
    assert not folder.exists()
    done = run("emit", "c", export, "-o", folder, "--flash", "20k")
    assert done.exit_code == 2
    assert "takes most" in done.stderr


def test_the_report_is_of_the_project(digits: tuple[Path, Any]) -> None:
    folder, _ = digits
    found = json.loads((folder / "emitted.json").read_text())
    assert (
        f"#define APOT_WORKSPACE_BYTES {found['workspace_bytes']}"
        in (folder / "model.h").read_text()
    )
    assert max(step["ram"] for step in found["steps"]) <= found["workspace_bytes"]
    assert all(step["instructions"] > 0 for step in found["steps"])


def test_convert_says_what_it_will_take(digits: tuple[Path, Any], exported: Path) -> None:
    folder, _ = digits
    found = json.loads((folder / "emitted.json").read_text())
    convert = ("convert", exported / EXPORT, "-o", folder.parent / "integer", "--integer")
    said = run(*convert).stdout
    assert f"{found['workspace_bytes']:,} bytes of RAM" in said
    assert f"{found['model_bytes'] + found['code_bytes']:,} of flash" in said
    told = json.loads(run(*convert, "--force", "--json").stdout)["microcontroller"]
    assert told == {name: found[name] for name in told}
    assert set(told) == {"model_bytes", "code_bytes", "workspace_bytes", "stack_bytes"}
