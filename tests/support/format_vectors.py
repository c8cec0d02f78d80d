"""The test vectors that FORMAT.md states."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from apot_export.network.codebook import Codebook

Vector = dict[str, list[str]]


SPECIFICATION = (Path(__file__).parents[2] / "FORMAT.md").read_text(encoding="utf-8")


BLOCKS = re.findall(r"^```vector (\w+)\n(.*?)^```$", SPECIFICATION, re.MULTILINE | re.DOTALL)


def vectors(kind: str) -> list[Vector]:
    """Return the blocks of one kind, each as values by keyword."""
    lines = [body.splitlines() for found, body in BLOCKS if found == kind]
    return [{line.split()[0]: line.split()[1:] for line in block} for block in lines]


def integers(words: list[str]) -> list[int]:
    return [int(word) for word in words]


def floats(words: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Read F32 numbers written as 32-bit hexadecimal numbers."""
    return np.frombuffer(bytes.fromhex("".join(words)), dtype=">f4").astype(np.float32)


def codebook(vector: Vector) -> Codebook:
    return Codebook(
        tables=tuple(map(tuple, json.loads(vector["tables"][0]))),
        denominator=int(vector["denominator"][0]),
        signed=vector.get("signed") == ["true"],
    )


def packed_bytes(words: list[str]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(bytes.fromhex("".join(words)), dtype=np.uint8)


def file_bytes() -> bytes:
    (body,) = (body for kind, body in BLOCKS if kind == "file")
    content = bytearray()
    for line in body.splitlines():
        offset, octets, text = re.fullmatch(r"(\w+): ([\da-f ]+?) +\|(.*)\|", line).groups()  # type: ignore[union-attr]
        row = bytes.fromhex(octets)
        assert int(offset, 16) == len(content)
        assert text == "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        content += row
    return bytes(content)
