"""Memory images: words as text for `$readmemh`, for Xilinx (.coe) and for Intel (.mif)."""

from __future__ import annotations

import numpy as np

from apot_export.devices.rtl._plan import STORE, LayerPlan
from apot_export.devices.vectors import hexadecimal
from apot_export.integer.network import Integers


def memory_files(plan: LayerPlan) -> dict[str, bytes]:
    """Return the memory images of a layer by the end of their names, each in three formats.

    codes.stream: the bytes of FORMAT.md's bit stream. codes.one: a code a word, [output, tap].
    codes: a code for every lane, [group, block, tap]. records.one: what becomes of the sums, a
    word of a record a word, [output, word]. records: a word for every lane, [group, block, word].
    """
    bits, word_bits, words = plan.codebook.bits, plan.records.bits, plan.records.words
    images = {
        "codes.stream": (plan.packed.reshape(-1, 1), 8),
        "codes.one": (plan.codes.reshape(-1, 1), bits),
        "codes": (plan.by_lanes(plan.codes).reshape(-1, plan.lanes), bits),
    }
    if plan.records.mode != STORE:
        images["records.one"] = (words.reshape(-1, 1), word_bits)
        images["records"] = (plan.by_lanes(words).reshape(-1, plan.lanes), word_bits)
    return {
        f".{name}.{suffix}": text.encode()
        for name, (numbers, each) in images.items()
        for suffix, text in _formats(numbers.astype(np.int64), each).items()
    }


def _formats(numbers: Integers, bits: int) -> dict[str, str]:
    words = hexadecimal(numbers, bits)
    listed = "".join(f"{address:x} : {word};\n" for address, word in enumerate(words))
    return {
        "mem": memory_text(words),
        "coe": "memory_initialization_radix=16;\nmemory_initialization_vector=\n"
        + ",\n".join(words)
        + ";\n",
        "mif": f"DEPTH = {len(words)};\nWIDTH = {numbers.shape[1] * bits};\n"
        f"ADDRESS_RADIX = HEX;\nDATA_RADIX = HEX;\nCONTENT BEGIN\n{listed}END;\n",
    }


def memory_text(words: list[str]) -> str:
    """Return words as text for `$readmemh`."""
    return "\n".join(words) + "\n"
