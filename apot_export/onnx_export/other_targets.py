"""Bodies for CUDA, where TF32 must not round, and for OpenVINO, which recognises 8-bit patterns."""

from __future__ import annotations

THREE_PARTS = "three_parts"
"""`IntegerConv` and `IntegerGemm` that TF32 cannot round."""
EIGHT_BITS = "eight_bits"
"""`ShiftConv` and `ShiftGemm` in the form from which OpenVINO makes 8-bit kernels."""
GATHER = "gather"
"""`QuantizeActivation` by `Gather`."""
GATHER_BYTES = "gather_bytes"
"""The same with an index that fits a byte."""

_CONV = (
    "Conv <strides: ints = @strides, pads: ints = @pads, "
    "dilations: ints = @dilations, group: int = @group>"
)
_GEMM = "Gemm <transB: int = 1>"

_PARTS = """
    w = Cast <to: int = 1> (weights)
    high_bits = Cast <to: int = 16> (x)
    high = Cast <to: int = 1> (high_bits)
    rest = Sub (x, high)
    middle_bits = Cast <to: int = 16> (rest)
    middle = Cast <to: int = 1> (middle_bits)
    low = Sub (rest, middle)
"""
_SUMS = """
    high_sums = {operator} (high, w)
    middle_sums = {operator} (middle, w)
    low_sums = {operator} (low, w)
    small_sums = Add (middle_sums, low_sums)
    sums = Add (high_sums, small_sums)
"""
_HEADS = {
    "Conv": "Conv <strides, pads, dilations, group>",
    "Gemm": "Gemm",
}


def _three_parts(kind: str, operator: str) -> str:
    return (
        f"Integer{_HEADS[kind]} (x, weights) => (sums)\n"
        f"{{{_PARTS}{_SUMS.format(operator=operator)}}}"
    )


_EIGHT_BITS = """
Shift{head} (levels, weights) => (accumulators)
{{
    half = Constant <value: tensor = float {{0.5}}> ()
    two = Constant <value: tensor = float {{2.0}}> ()
    zero_point = Constant <value: tensor = uint8 {{0}}> ()
    values = Cast <to: int = 1> (levels)
    halves = Mul (values, half)
    quantized = QuantizeLinear (halves, half, zero_point)
    x = DequantizeLinear (quantized, half, zero_point)
    w = DequantizeLinear (weights, two)
    exact = {operator} (x, w)
    accumulators = Cast <to: int = 6> (exact)
}}
"""
"""Half a level times twice a weight: the same integers, and every scale a power of two, exact.

A scale of 1 would be removed before OpenVINO looks for 8-bit layers; without a `QuantizeLinear`
it does not look at all.
"""

_QUANTIZE_GATHER = """
QuantizeActivation
    <alpha: float, bits: int, denominator: int, digit_tables: ints, digit_table_sizes: ints>
    (x, scale, last, levels) => (quantized)
{
    scaled = Mul (x, scale)
    zero = Constant <value_float: float = 0.0> ()
    clipped = Clip (scaled, zero, last)
    index = Cast <to: int = 6> (clipped)
    quantized = Gather <axis: int = 0> (levels, index)
}
"""
_QUANTIZE_GATHER_BYTES = _QUANTIZE_GATHER.replace(
    "index = Cast <to: int = 6> (clipped)",
    "bytes = Cast <to: int = 2> (clipped)\n    index = Cast <to: int = 6> (bytes)",
)

BODIES = {
    ("IntegerConv", THREE_PARTS): _three_parts("Conv", _CONV),
    ("IntegerGemm", THREE_PARTS): _three_parts("Gemm", _GEMM),
    ("ShiftConv", EIGHT_BITS): _EIGHT_BITS.format(head=_HEADS["Conv"], operator=_CONV),
    ("ShiftGemm", EIGHT_BITS): _EIGHT_BITS.format(head=_HEADS["Gemm"], operator=_GEMM),
    ("QuantizeActivation", GATHER): _QUANTIZE_GATHER,
    ("QuantizeActivation", GATHER_BYTES): _QUANTIZE_GATHER_BYTES,
}
