"""The parameters of the shift-add decoder: a codebook's digit tables as constants."""

from __future__ import annotations

from collections.abc import Sequence

from apot_export.devices.vectors import bits_of
from apot_export.integer.network import Interval
from apot_export.network.codebook import Codebook, power_of_two_shift

_USED, _NEGATIVE = 0x40, 0x80


def decoder_parameters(codebook: Codebook, x: Interval, sum_bits: int) -> dict[str, int | str]:
    """Return the parameters of apot_decoder.sv.

    Args:
        codebook: Of the weights.
        x: What they are multiplied with.
        sum_bits: Width of sums, beyond which no bit of a product counts.
    """
    entries = max(map(len, codebook.tables))
    terms = [
        term
        for table in codebook.tables
        for term in [*map(_term, table), *[0] * (entries - len(table))]
    ]
    lows = [sum(codebook.field_bits[:field]) for field in range(len(codebook.tables) + 1)]
    largest = sum(max(map(abs, table)) for table in codebook.tables) * max(-x.low, x.high)
    return {
        "X_BITS": bits_of(x.low, x.high),
        "X_SIGNED": int(x.low < 0),
        "CODE_BITS": codebook.bits,
        "CODE_SIGNED": int(codebook.signed),
        "FIELDS": len(codebook.tables),
        "FIELD_LOW": packed(lows, 8),
        "ENTRIES": entries,
        "TERMS": packed(terms, 8),
        "PRODUCT_BITS": min(bits_of(-largest, largest), sum_bits),
    }


def packed(numbers: Sequence[int], bits: int) -> str:
    """Return numbers as one constant of SystemVerilog, the first in its lowest bits."""
    mask = (1 << bits) - 1
    value = sum((number & mask) << (bits * place) for place, number in enumerate(numbers))
    return f"{len(numbers) * bits}'h{value:x}"


def _term(addend: int) -> int:
    sign = _NEGATIVE if addend < 0 else 0
    return power_of_two_shift(addend) | _USED | sign if addend else 0
