"""The C interpreter of integer programs against the oracle, number by number."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import json
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from apot_export.artifacts.packed import load_packed
from apot_export.artifacts.packed._container import read, write
from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.conversion.convert import convert
from apot_export.errors import BoundError, KernelError, PackedFileError
from apot_export.integer import IntegerNetwork, lower, run_integer
from apot_export.integer.fixed_point import signed_digits
from apot_export.integer.oracle import fixed_point
from apot_export.network import Add, CodedNetwork, MaxPool, PlaneLayer, Relu, ScaleBias
from apot_export.network.codebook import apot, uniform
from apot_export.network.memory_plan import Use, plan
from apot_export.runtimes.interpreter import (
    SOURCES,
    WITHOUT_MULTIPLICATION,
    OpenProgram,
    compile_interpreter,
    load_interpreter,
)
from tests.support.networks import Builder, images_of, quantizer, single_linear
from tests.support.published import Shelf, mnist, scaled
from tests.support.random_coded_networks import (
    INPUTS,
    SIGNED_INPUTS,
    WEIGHTS,
    plane_network,
    random_network,
    two_layers,
)
from tests.support.sanitizers import run_sanitized

MULTIPLICATION = re.compile(r"\s(v?p?i?mul\w*|v?pm(ul|add)\w*|i?div\w*|v?(f?n?m(add|sub))\w*)\s")
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-c"]
SOURCE = str(SOURCES / "apot_integer.c")
Interpreters = dict[str, ctypes.CDLL]

needs_compiler = pytest.mark.skipif(
    not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler"
)
pytestmark = needs_compiler


@pytest.fixture(scope="module")
def interpreters(tmp_path_factory: pytest.TempPathFactory) -> Interpreters:
    """Return the build that multiplies where it requantizes, and the one that never does."""
    builds = {"default": ("-O2",), "optimised": ("-O3",), "shifts": WITHOUT_MULTIPLICATION}
    return {
        name: load_interpreter(compile_interpreter(tmp_path_factory.mktemp(name), flags))
        for name, flags in builds.items()
    }


def ran(*command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def file_of(coded: CodedNetwork, network: IntegerNetwork) -> bytes:
    return packed_file_bytes(coded, {"tool": "test"}, network)


def assert_same(
    interpreters: Interpreters,
    coded: CodedNetwork,
    images: NDArray[np.float32],
    bits: int,
    *,
    builds: tuple[str, ...] = ("default", "optimised", "shifts"),
) -> NDArray[np.int64]:
    network = lower(coded, fraction_bits=bits)
    expected = run_integer(network, images)
    content = file_of(coded, network)
    for name in builds:
        logits = OpenProgram(content, interpreters[name]).run(fixed_point(network, images))
        np.testing.assert_array_equal(logits, expected, err_msg=name)
    return expected


# --- the same numbers as the oracle ---------------------------------------------------------------


@pytest.mark.parametrize("seed", range(24))
def test_random_networks(interpreters: Interpreters, seed: int) -> None:
    coded = random_network(seed)
    assert_same(interpreters, coded, images_of(coded, 5), 10)


def test_random_networks_do_not_ignore_their_images() -> None:
    lively = 0
    for seed in range(24):
        coded = random_network(seed)
        logits = run_integer(lower(coded, fraction_bits=10), images_of(coded, 5))
        lively += len(np.unique(logits, axis=0)) > 1
    assert lively >= 18


@pytest.mark.parametrize("seed", range(8))
def test_random_networks_of_signed_levels(interpreters: Interpreters, seed: int) -> None:
    coded = random_network(seed, SIGNED_INPUTS)
    assert_same(interpreters, coded, images_of(coded, 5), 2)


@pytest.mark.parametrize("seed", [1, 2, 9])
def test_every_value_of_a_network(interpreters: Interpreters, seed: int) -> None:
    coded = plane_network() if seed == 9 else random_network(seed)
    network = lower(coded, fraction_bits=10)
    images = images_of(coded, 3)
    values: dict[str, NDArray[np.int64]] = {}
    run_integer(network, images, values.__setitem__)
    for number, node in enumerate(network.nodes, start=1):
        shorter = dataclasses.replace(network, nodes=network.nodes[:number], output=node.name)
        content = file_of(coded, shorter)
        for name in ("default", "shifts"):
            found = OpenProgram(content, interpreters[name]).run(fixed_point(network, images))
            expected = values[node.name].reshape(len(images), -1)
            np.testing.assert_array_equal(found, expected, err_msg=f"{name}: {node.name}")


@pytest.mark.parametrize("seed", range(24, 30))
def test_random_networks_of_many_fraction_bits(interpreters: Interpreters, seed: int) -> None:
    coded = random_network(seed)
    for bits in (20, 16, 12):
        try:
            assert_same(interpreters, coded, images_of(coded, 3), bits)
        except BoundError:
            continue
        return
    pytest.fail("no number of fraction bits fits")


@pytest.mark.parametrize("weights", range(len(WEIGHTS)))
def test_every_codebook(interpreters: Interpreters, weights: int) -> None:
    for seed, inputs in enumerate(INPUTS):
        coded = two_layers(WEIGHTS[weights], inputs, seed)
        assert_same(interpreters, coded, images_of(coded, 4), 18)


@pytest.mark.parametrize("seed", range(6))
def test_sign_vectors(interpreters: Interpreters, seed: int) -> None:
    coded = plane_network(seed)
    layers = [layer for layer in coded.layers.values() if isinstance(layer, PlaneLayer)]
    assert any((layer.planes.counts == 0).any() for layer in layers)
    assert_same(interpreters, coded, images_of(coded, 4), 10)


def test_weights_beyond_int8_and_sums_beyond_int32(interpreters: Interpreters) -> None:
    builder = Builder(image=(3, 8, 8))
    wide = builder.convolution("image", 4, (3, 3), uniform(8, signed=True))
    coded = builder.head(builder.add(Relu(), wide), 6, uniform(15, signed=True))
    network = lower(coded, fraction_bits=20)
    assert max(layer.bound for layer in network.layers.values()) > 1 << 32
    assert_same(interpreters, coded, images_of(coded, 4), 20)


@pytest.mark.parametrize("readers", range(1, 7))
def test_sums_with_several_readers(interpreters: Interpreters, readers: int) -> None:
    builder = Builder(image=(2, 6, 6), seed=readers)
    first = builder.convolution("image", 4, (3, 3), apot(3, signed=True), padding=(1, 1))
    sums = builder.nodes[0].name
    pooled = builder.affine(builder.add(MaxPool(kernel=(1, 1), stride=(1, 1)), sums), 0.01)
    value = first
    for _ in range(readers):
        value = builder.add(Add(), value, builder.affine(sums, 0.1))
    coded = builder.head(builder.add(Add(), value, pooled), 3, apot(3, signed=True))
    assert_same(interpreters, coded, images_of(coded, 4), 12)


def test_a_channel_of_gain_zero(interpreters: Interpreters) -> None:
    builder = Builder(image=(1, 4, 4))
    book, inputs = apot(2, signed=True), quantizer(apot(2, signed=False), 1.0)
    value = builder.convolution("image", 3, (1, 1), book)
    scale = builder.nodes[-1].operation
    assert isinstance(scale, ScaleBias)
    scale.scale[1] = 0
    coded = builder.head(builder.convolution(value, 3, (2, 2), book, inputs), 2, book)
    assert_same(interpreters, coded, images_of(coded, 4), 12)


def test_images_outside_the_range_are_clamped(interpreters: Interpreters) -> None:
    coded = random_network(3)
    network = lower(coded, fraction_bits=10)
    content = file_of(coded, network)
    limits = np.iinfo(np.int32)
    shape = (1, *coded.input_shape)
    for extreme, real in ((limits.max, 100), (limits.min, -100)):
        expected = run_integer(network, np.full(shape, real, dtype=np.float32))
        given = np.full(shape, extreme, dtype=np.int32)
        for interpreter in interpreters.values():
            np.testing.assert_array_equal(OpenProgram(content, interpreter).run(given), expected)


# --- the file -------------------------------------------------------------------------------------


def test_the_file_is_the_same_every_time_and_is_read(tmp_path: Path) -> None:
    coded = random_network(1)
    content = file_of(coded, lower(coded, fraction_bits=10))
    assert content == file_of(random_network(1), lower(random_network(1), fraction_bits=10))
    path = tmp_path / "model.apot.safetensors"
    path.write_bytes(content)
    loaded = load_packed(path)
    assert loaded.integer is not None
    assert content.endswith(loaded.integer)
    assert loaded.integer.endswith(b"APIN")
    path.write_bytes(packed_file_bytes(coded, {}))
    assert load_packed(path).integer is None


def test_the_head_is_where_the_description_says() -> None:
    coded = random_network(1)
    network = lower(coded, fraction_bits=10, input_bits=9)
    content = file_of(coded, network)
    version, size, checksum, magic = struct.unpack("<III4s", content[-16:])
    program = content[-size:]
    assert (version, magic) == (1, b"APIN")
    assert checksum == zlib.crc32(program[:-8])
    head = struct.unpack("<5Id6I", program[:52])
    assert head[:5] == (*coded.input_shape, 9, 10)
    assert head[5] == float(network.logit_scale)
    values, scratch, classes, kind, offset, instructions = head[6:]
    assert (values % 8, scratch % 8, classes, kind) == (0, 0, 5, 1)
    assert offset + 4 * classes <= values
    assert 0 < instructions < len(network.nodes)


@pytest.mark.parametrize(("times", "opens"), [(1, True), (40, True), (100, False)])
def test_few_instructions_read_the_same_weights(times: int, opens: bool) -> None:
    codes = np.random.default_rng(0).integers(0, 8, (100, 500))
    coded = single_linear(uniform(3, signed=True), codes, uniform(4, signed=False))
    network = lower(coded, fraction_bits=10)
    content = file_of(coded, network)
    size = int.from_bytes(content[-12:-8], "little")
    program = content[-size:-16]
    instructions = int.from_bytes(program[48:52], "little") * times
    longer = program[:48] + instructions.to_bytes(4, "little") + program[52:] * times
    end = longer + struct.pack("<II", 1, len(longer) + 16)
    forged = content[:-size] + end + struct.pack("<I", zlib.crc32(end)) + b"APIN"
    if opens:
        images = fixed_point(network, images_of(coded, 2))
        assert (OpenProgram(forged).run(images) == OpenProgram(content).run(images)).all()
    else:
        with pytest.raises(PackedFileError, match="malformed"):
            OpenProgram(forged)


@pytest.mark.parametrize("damage", ["first", "two axes", "floats"])
def test_a_misplaced_program_is_refused(tmp_path: Path, damage: str) -> None:
    coded = random_network(1)
    path = tmp_path / "model.apot.safetensors"
    path.write_bytes(file_of(coded, lower(coded, fraction_bits=10)))
    found, stored = read(path)
    tensors = dict(stored)
    program = tensors.pop("integer")
    if damage == "first":
        tensors = {"integer": program, **tensors}
    elif damage == "two axes":
        tensors["integer"] = program[:, None]
    else:
        tensors["integer"] = np.zeros(4, dtype=np.float32)
    metadata = {name: found[name] for name in ("network", "provenance")}
    path.write_bytes(write(metadata, tensors))
    with pytest.raises(PackedFileError, match="integer"):
        load_packed(path)


def test_the_workspace_is_smaller_than_all_values() -> None:
    uses = [
        Use(reads=("image",), writes=("a",)),
        Use(reads=("a",), writes=("b",)),
        Use(reads=("b",), writes=("c",), over=("b",)),
        Use(reads=("c", "b2"), writes=("d",)),
    ]
    sizes = {"a": 100, "b": 60, "c": 60, "d": 90, "b2": 8}
    offsets, total = plan(uses, sizes, ["d"])
    assert offsets["b"] == offsets["c"]
    assert total == 104 + 64
    assert offsets["d"] == 0


@pytest.mark.parametrize("number", [0, 1, -1, 3, 7, -10, 0x55555555, 2**30 - 1, -(2**31)])
def test_signed_digits(number: int) -> None:
    digits = signed_digits(number)
    assert sum(sign << shift for shift, sign in digits) == number
    shifts = [shift for shift, _ in digits]
    assert all(after - before > 1 for before, after in itertools.pairwise(shifts))


def test_a_file_without_program_is_refused(interpreters: Interpreters) -> None:
    content = packed_file_bytes(random_network(1), {})
    for interpreter in interpreters.values():
        with pytest.raises(PackedFileError, match="no integer program"):
            OpenProgram(content, interpreter)
        with pytest.raises(PackedFileError, match="no packed file"):
            OpenProgram(b"something else entirely, and long enough to be looked at", interpreter)


def test_no_compiler_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(KernelError, match="no C compiler"):
        compile_interpreter(tmp_path)


# --- damage ---------------------------------------------------------------------------------------


def test_damaged_files_never_leave_their_memory(tmp_path: Path) -> None:
    # Files are cut and changed, and what opens is run.
    found = json.loads(run_sanitized("damaged_programs.py", tmp_path))
    assert found["files"] == 6
    assert found["cut"] >= 120
    assert found["flipped"] >= 300
    assert found["forged"] >= 600
    assert found["forged and run"] > 30


# --- instructions of the machine ------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
def test_the_build_of_shifts_has_no_multiplication(tmp_path: Path) -> None:
    found = {}
    for name, flags in {"default": ["-O2"], "shifts": list(WITHOUT_MULTIPLICATION)}.items():
        result = str(tmp_path / f"{name}.o")
        assert ran("gcc", *STRICT, *flags, "-o", result, SOURCE).returncode == 0
        listing = ran("objdump", "-d", "--no-show-raw-insn", result).stdout
        assert "<apot_run>:" in listing
        found[name] = [line for line in listing.splitlines() if MULTIPLICATION.search(line)]
        symbols = ran("objdump", "-t", result).stdout.splitlines()
        called = {line.split()[-1] for line in symbols if "*UND*" in line}
        assert called <= {"memcpy", "memset", "memcmp", "__stack_chk_fail"}
    assert found["default"], "the default build multiplies: the pattern finds nothing"
    assert not found["shifts"]


@pytest.mark.parametrize("flags", [["-O0"], ["-Os"], ["-O3", "-march=x86-64"]])
def test_it_compiles_without_warnings(flags: list[str], tmp_path: Path) -> None:
    for define in ([], ["-DAPOT_NO_MULTIPLY"]):
        done = ran("gcc", *STRICT, *flags, *define, "-o", str(tmp_path / "x.o"), SOURCE)
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_it_is_cpp_too(tmp_path: Path) -> None:
    strict = ["-x", "c++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-c"]
    done = ran("g++", *strict, "-o", str(tmp_path / "x.o"), SOURCE)
    assert done.returncode == 0, done.stderr


# --- published networks ---------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_published_resnets(interpreters: Interpreters, shelf: Shelf, bits: int) -> None:
    name = f"cifar10_res20_{bits}bit"
    assert_same(interpreters, shelf.network(name), shelf.images(name)[:40], 20)


def test_the_published_multi_bit_network(
    interpreters: Interpreters, reference: Path, tmp_path: Path
) -> None:
    checkpoint = reference / "checkpoints/ALQ/lenet5_model.pth"
    coded = load_packed(convert(checkpoint, tmp_path / "lenet", alpha_terms=3).path).network
    images = scaled(mnist(reference)[:10], 0.1307, 0.3081)
    bits = next(bits for bits in (20, 18, 16, 14, 12) if fits(coded, bits))
    assert_same(interpreters, coded, images, bits)


def fits(coded: CodedNetwork, bits: int) -> bool:
    try:
        lower(coded, fraction_bits=bits)
    except BoundError:
        return False
    return True


def test_the_published_imagenet_network(interpreters: Interpreters, shelf: Shelf) -> None:
    coded = shelf.network("res18_4bit")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(1, *coded.input_shape)).astype(np.float32)
    bits = next(bits for bits in (20, 18, 16, 14, 12) if fits(coded, bits))
    assert_same(interpreters, coded, images, bits, builds=("optimised", "shifts"))
