"""Bodies for OpenVINO: patterns from which it makes 8-bit kernels, and tables that it reads fast.

OpenVINO makes a convolution an 8-bit one where it reads a `QuantizeLinear` of the input and 8-bit
weights, and it must see the weights decoded (see `openvino_model`). Its kernels are channels last;
its `Gather` is not, unless the graph is transposed around it.
"""

from __future__ import annotations

from apot_export.artifacts.onnx_model.functions import CONV, GEMM

EIGHT_BITS = "eight_bits"
"""`ShiftConv` and `ShiftGemm` in 8-bit kernels."""
GATHER = "gather"
"""`QuantizeActivation` of images by `Gather`, channels last."""
GATHER_FLAT = "gather_flat"
"""`QuantizeActivation` of vectors by `Gather`."""
BYTES = "_bytes"
"""Ending of either where the index fits a byte."""

_QUANTIZED = """
    half = Constant <value: tensor = float {0.5}> ()
    two = Constant <value: tensor = float {2.0}> ()
    zero_point = Constant <value: tensor = uint8 {0}> ()
    values = Cast <to: int = 1> (ordered)
    halves = Mul (values, half)
    quantized = QuantizeLinear (halves, half, zero_point)
    dequantized = DequantizeLinear (quantized, half, zero_point)
    w = DequantizeLinear (weights, two)
"""
"""Half a level times twice a weight: the same integers, every scale a power of two and exact. A
scale of 1 would be removed before OpenVINO looks for 8-bit layers."""

_SHIFT_CONV = f"""
ShiftConv <strides, pads, dilations, group> (levels, weights) => (accumulators)
{{
    ordered = Transpose <perm: ints = [0, 2, 3, 1]> (levels){_QUANTIZED}
    x = Transpose <perm: ints = [0, 3, 1, 2]> (dequantized)
    exact = {CONV} (x, w)
    accumulators = Cast <to: int = 6> (exact)
}}
"""
_SHIFT_GEMM = f"""
ShiftGemm (levels, weights) => (accumulators)
{{
    ordered = Identity (levels){_QUANTIZED}
    exact = {GEMM} (dequantized, w)
    accumulators = Cast <to: int = 6> (exact)
}}
"""

_QUANTIZE = """
QuantizeActivation
    <alpha: float, bits: int, denominator: int, digit_tables: ints, digit_table_sizes: ints,
     image_shape: ints>
    (x, scale, last, levels) => (quantized)
{
    image = Transpose <perm: ints = [0, 2, 3, 1]> (x)
    rows = Constant <value_ints: ints = [0, -1]> ()
    flat = Reshape (image, rows)
    scaled = Mul (flat, scale)
    zero = Constant <value_float: float = 0.0> ()
    clipped = Clip (scaled, zero, last)
    index = Cast <to: int = 6> (clipped)
    flat_levels = Gather <axis: int = 0> (levels, index)
    image_shape = Constant <value_ints: ints = @image_shape> ()
    image_levels = Reshape (flat_levels, image_shape)
    quantized = Transpose <perm: ints = [0, 3, 1, 2]> (image_levels)
}
"""
"""The flat shape keeps OpenVINO from moving the transpositions, which are free where they are."""

_QUANTIZE_FLAT = """
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


def _of_bytes(text: str) -> str:
    """Return a quantizer that narrows its index first: it costs OpenVINO less."""
    return text.replace(
        "index = Cast <to: int = 6> (clipped)",
        "byte = Cast <to: int = 2> (clipped)\n    index = Cast <to: int = 6> (byte)",
    )


BODIES = {
    ("ShiftConv", EIGHT_BITS): _SHIFT_CONV,
    ("ShiftGemm", EIGHT_BITS): _SHIFT_GEMM,
    ("QuantizeActivation", GATHER): _QUANTIZE,
    ("QuantizeActivation", GATHER + BYTES): _of_bytes(_QUANTIZE),
    ("QuantizeActivation", GATHER_FLAT): _QUANTIZE_FLAT,
    ("QuantizeActivation", GATHER_FLAT + BYTES): _of_bytes(_QUANTIZE_FLAT),
}
