"""Run as a program: damage packed files in many ways and run the integer programs that open."""

from __future__ import annotations

import ctypes
import json
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from apot_export.artifacts.packed.writing import packed_file_bytes
from apot_export.errors import PackedFileError
from apot_export.integer import lower
from apot_export.integer.oracle import fixed_point
from apot_export.network import CodedNetwork
from apot_export.runtimes.interpreter import (
    OpenProgram,
    compile_interpreter,
    load_interpreter,
)
from tests.support.networks import images_of
from tests.support.random_coded_networks import plane_network, random_network
from tests.support.sanitizers import flags

LARGEST_WORKSPACE = 1 << 22


def opened(interpreter: ctypes.CDLL, content: bytes) -> OpenProgram | None:
    try:
        return OpenProgram(content, interpreter)
    except PackedFileError:
        return None


def forged(content: bytes, place: int, value: int) -> bytes:
    """Change a byte of a program, and make its checksum fit again."""
    size = int.from_bytes(content[-12:-8], "little")
    program = bytearray(content[-size:])
    program[place] = value
    program[-8:-4] = zlib.crc32(bytes(program[:-8])).to_bytes(4, "little")
    return content[:-size] + bytes(program)


def require(condition: object, what: str) -> None:
    if not condition:
        raise AssertionError(what)


class Damage:
    """Damages one packed file in many ways."""

    def __init__(self, interpreter: ctypes.CDLL, coded: CodedNetwork, seed: int) -> None:
        network = lower(coded, fraction_bits=10)
        self.interpreter = interpreter
        self.content = packed_file_bytes(coded, {}, network)
        self.images = fixed_point(network, images_of(coded, 2))
        self.expected = OpenProgram(self.content, interpreter).run(self.images)
        self.rng = np.random.default_rng(seed)
        self.found: Counter[str] = Counter(files=1)

    def cut(self) -> None:
        places = self.rng.integers(0, len(self.content), 20).tolist()
        for length in (*range(0, 64, 7), *places):
            self.found["cut"] += 1
            require(opened(self.interpreter, self.content[:length]) is None, f"cut: {length}")

    def flip(self) -> None:
        for place in self.rng.integers(0, len(self.content), 60).tolist():
            self.found["flipped"] += 1
            flipped = bytearray(self.content)
            flipped[place] ^= 1 << int(self.rng.integers(8))
            program = opened(self.interpreter, bytes(flipped))
            if program is not None:
                same = (program.run(self.images) == self.expected).all()
                require(same, f"a flipped bit at {place} changes the result")

    def forge(self) -> None:
        size = int.from_bytes(self.content[-12:-8], "little")
        for place in (*range(0, 300, 3), *self.rng.integers(0, size - 16, 60).tolist()):
            value = self.rng.choice([0, 1, 255, 128, int(self.rng.integers(256))])
            program = opened(self.interpreter, forged(self.content, place, int(value)))
            self.found["forged"] += 1
            if program is not None and program.workspace_bytes <= LARGEST_WORKSPACE:
                shape = (1, *program.input_shape)
                program.run(self.rng.integers(-(2**31), 2**31, shape).astype(np.int32))
                self.found["forged and run"] += 1

    def run(self) -> Counter[str]:
        self.cut()
        self.flip()
        self.forge()
        same = OpenProgram(self.content, self.interpreter).run(self.images) == self.expected
        require(same.all(), "the intact file gives another result")
        return self.found


def main(folder: Path) -> None:
    found: Counter[str] = Counter()
    for number, options in enumerate((flags("-O1"), flags("-O1", "-DAPOT_NO_MULTIPLY"))):
        target = folder / str(number)
        target.mkdir()
        interpreter = load_interpreter(compile_interpreter(target, options))
        for seed, coded in enumerate((random_network(0), random_network(5), plane_network())):
            found += Damage(interpreter, coded, seed).run()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
