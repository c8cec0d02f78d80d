"""Build and run the libFuzzer target of integer programs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.errors import KernelError
from apot_export.integer import lower
from apot_export.runtimes.compiler import compiler_failure
from apot_export.runtimes.interpreter import SOURCES
from conformance.files import unseal
from tests.support.packed_parts import sound_files
from tests.support.random_coded_networks import INPUTS, WEIGHTS, random_network, two_layers

TARGET = Path(__file__).with_name("interpreter.c")
FLAGS = (
    *("-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", f"-I{SOURCES}"),
    *("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"),
)
OPTIONS = (
    *("-max_len=32768", "-timeout=20", "-print_final_stats=1", "-detect_leaks=1"),
    "-rss_limit_mb=4096",  # most of it is memory that the sanitizer keeps from being used again
)
FUNCTIONS = (
    *("open", "run", "message", "model_bytes", "workspace_bytes", "channels", "height", "width"),
    *("classes", "image_fraction_bits", "fraction_bits", "logit_scale"),
)
KIT = Path(__file__).parents[2] / "conformance" / "programs"
MAGIC = b"APIN"
"""The last bytes of a file that has a program."""


def build(folder: Path) -> Path:
    """Compile the target with both builds of the interpreter and return its path.

    Raises:
        KernelError: There is no clang, which has libFuzzer, or it failed.
    """
    clang = shutil.which("clang")
    if clang is None:
        raise KernelError("There is no clang to build the fuzzer of integer programs with.")
    renamed = [f"-Dapot_{name}=shifts_{name}" for name in FUNCTIONS]
    program, interpreter = folder / "interpreter", str(SOURCES / "apot_integer.c")
    for flags in (
        ["-c", interpreter, "-o", str(folder / "default.o")],
        ["-c", interpreter, "-o", str(folder / "shifts.o"), "-DAPOT_NO_MULTIPLY", *renamed],
        [str(TARGET), str(folder / "default.o"), str(folder / "shifts.o"), "-o", str(program)],
    ):
        if failure := compiler_failure([clang, *FLAGS, *flags]):
            raise KernelError("The compiler refused the fuzzer.", where=clang, got=failure)
    return program


def write_seeds(folder: Path) -> Path:
    """Write the data of files, programs at the end, sound or not, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {path.name: path.read_bytes() for path in sorted(KIT.glob("*.safetensors"))}
    files |= sound_files()
    networks = {f"random{seed}": random_network(seed) for seed in range(4)}
    for number, book in enumerate(WEIGHTS):
        networks[f"codes{number}"] = two_layers(book, INPUTS[number % len(INPUTS)], number)
    for name, network in networks.items():
        files[name] = packed_file_bytes(network, {}, lower(network, fraction_bits=6))
    for name, content in files.items():
        if content.endswith(MAGIC):
            (folder / name).write_bytes(unseal(content)[1])
    return folder


def fuzz_programs(corpus: Path, seconds: int) -> int:
    """Fuzz for some seconds, from a corpus that grows; return the exit status."""
    program = build(corpus.parent)
    seeds = write_seeds(corpus.parent / "seeds")
    prefix = f"-artifact_prefix={corpus.parent}/"
    options = [*OPTIONS, prefix, f"-max_total_time={seconds}"]
    return subprocess.run([program, *options, corpus, seeds], check=False).returncode
