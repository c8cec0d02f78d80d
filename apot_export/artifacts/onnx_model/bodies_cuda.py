"""Bodies for CUDA, where TF32 may carry integers but must not round floats.

TF32 keeps 11 significant bits of each factor and sums in float32: integers up to 2048 pass whole,
so the portable bodies of quantized layers stay. A float input is summed in three parts.
"""

from __future__ import annotations

THREE_PARTS = "three_parts"
"""`IntegerConv` and `IntegerGemm` that TF32 cannot round."""

_BODY = """
Integer{head} (x, weights) => (sums)
{{
    w = Cast <to: int = 1> (weights)
    high_bits = Cast <to: int = 16> (x)
    high = Cast <to: int = 1> (high_bits)
    rest = Sub (x, high)
    middle_bits = Cast <to: int = 16> (rest)
    middle = Cast <to: int = 1> (middle_bits)
    low = Sub (rest, middle)
    high_sums = {operator} (high, w)
    middle_sums = {operator} (middle, w)
    low_sums = {operator} (low, w)
    small_sums = Add (middle_sums, low_sums)
    sums = Add (high_sums, small_sums)
}}
"""
"""bfloat16 holds 8 of the 24 significant bits: what it leaves is exact, and so is what the second
one leaves. The weights are integers of at most 11 significant bits."""

_CONV = (
    "Conv <strides: ints = @strides, pads: ints = @pads, "
    "dilations: ints = @dilations, group: int = @group>"
)

BODIES = {
    ("IntegerConv", THREE_PARTS): _BODY.format(
        head="Conv <strides, pads, dilations, group>", operator=_CONV
    ),
    ("IntegerGemm", THREE_PARTS): _BODY.format(head="Gemm", operator="Gemm <transB: int = 1>"),
}
