"""The `apot` operators: what each means, and a body of standard operators that computes it.

The node is the meaning: it carries codes, digit tables, threshold and step as inputs and
attributes, so that a hardware compiler can match it. The body is the lowering that any ONNX runtime
executes. All bodies here are the portable ones.
"""

from __future__ import annotations

import onnx
from onnx import parser

DOMAIN = "apot"
DOMAIN_VERSION = 1
STANDARD_OPSET = 21

_HEADER = f'<opset_import: ["" : {STANDARD_OPSET}], domain: "{DOMAIN}">'

DECODE_WEIGHTS = """
DecodeWeights
    <bits: int, signed: int, denominator: int, digit_tables: ints, digit_table_sizes: ints>
    (packed, windows, shifts, mask, levels, shape) => (weights)
{
    bytes_per_group = Shape <start: int = 0, end: int = 1> (windows)
    any = Constant <value_ints: ints = [-1]> ()
    group_shape = Concat <axis: int = 0> (any, bytes_per_group)
    groups = Reshape (packed, group_shape)
    wide = Cast <to: int = 12> (groups)
    code_windows = MatMul (wide, windows)
    shifted = BitShift <direction: string = "RIGHT"> (code_windows, shifts)
    masked = BitwiseAnd (shifted, mask)
    flat = Reshape (masked, any)
    start = Constant <value_ints: ints = [0]> ()
    count = ReduceProd <keepdims: int = 1> (shape)
    used = Slice (flat, start, count)
    codes = Cast <to: int = 6> (used)
    flat_levels = GatherElements <axis: int = 0> (levels, codes)
    weights = Reshape (flat_levels, shape)
}
"""
"""Packed codes to integer levels.

`packed` uint8: the bit stream of FORMAT.md, filled to whole groups of codes that end on a byte
boundary; `windows` uint32 [bytes, codes] gathers the bytes that each code of a group lies in,
`shifts` uint32 [codes] and `mask` uint32 cut it out; `levels` is the level of every code, `shape`
int64 the weight shape. The attributes state the codebook: code = sign bit above one selector per
digit table (the tables one after the other, with their sizes), value = level * alpha / denominator.
"""

QUANTIZE_ACTIVATION = """
QuantizeActivation
    <alpha: float, bits: int, denominator: int, digit_tables: ints, digit_table_sizes: ints>
    (x, scale, last, levels) => (quantized)
{
    any = Constant <value_ints: ints = [-1]> ()
    flat = Reshape (x, any)
    scaled = Mul (flat, scale)
    zero = Constant <value_float: float = 0.0> ()
    clipped = Clip (scaled, zero, last)
    index = Cast <to: int = 6> (clipped)
    flat_levels = GatherElements <axis: int = 0> (levels, index)
    shape = Shape (x)
    quantized = Reshape (flat_levels, shape)
}
"""
"""Floats to integer levels: levels[floor(clip(x * scale, 0, last))].

`scale` = 2 * denominator / alpha and `last` = 2 * denominator, float32 scalars; `levels` is the
level of every half step.
"""

_CONVOLUTION_ATTRIBUTES = (
    "strides: ints = @strides, pads: ints = @pads, "
    "dilations: ints = @dilations, group: int = @group"
)

SHIFT_CONV = f"""
ShiftConv <strides, pads, dilations, group> (levels, weights) => (accumulators)
{{
    x = Cast <to: int = 1> (levels)
    w = Cast <to: int = 1> (weights)
    exact = Conv <{_CONVOLUTION_ATTRIBUTES}> (x, w)
    accumulators = Cast <to: int = 6> (exact)
}}
"""
"""Integer levels convolved with integer weights: int32 accumulators.

The body carries integers in float32, exactly: the exporter proves that no partial sum reaches 2^24.
The cast to int32 also keeps runtimes from folding scales into the weights.
"""

SHIFT_GEMM = """
ShiftGemm (levels, weights) => (accumulators)
{
    x = Cast <to: int = 1> (levels)
    w = Cast <to: int = 1> (weights)
    exact = Gemm <transB: int = 1> (x, w)
    accumulators = Cast <to: int = 6> (exact)
}
"""
"""Integer levels [N, in] times integer weights [out, in] transposed: int32 accumulators."""

INTEGER_CONV = f"""
IntegerConv <strides, pads, dilations, group> (x, weights) => (sums)
{{
    w = Cast <to: int = 1> (weights)
    sums = Conv <{_CONVOLUTION_ATTRIBUTES}> (x, w)
}}
"""
"""A float tensor convolved with integer weights: float32, in units of the weights' step."""

INTEGER_GEMM = """
IntegerGemm (x, weights) => (sums)
{
    w = Cast <to: int = 1> (weights)
    sums = Gemm <transB: int = 1> (x, w)
}
"""
"""A float matrix [N, in] times integer weights [out, in] transposed: float32."""

SCALE_BIAS = """
ScaleBias (x, scale, bias) => (y)
{
    values = Cast <to: int = 1> (x)
    scaled = Mul (values, scale)
    y = Add (scaled, bias)
}
"""
"""x * scale + bias per channel, each operation rounded to float32; x may be int32."""

_BODIES = {
    "DecodeWeights": DECODE_WEIGHTS,
    "QuantizeActivation": QUANTIZE_ACTIVATION,
    "ShiftConv": SHIFT_CONV,
    "ShiftGemm": SHIFT_GEMM,
    "IntegerConv": INTEGER_CONV,
    "IntegerGemm": INTEGER_GEMM,
    "ScaleBias": SCALE_BIAS,
}


def function(name: str) -> onnx.FunctionProto:
    """Return an `apot` operator's function, its documentation included."""
    text = _BODIES[name]
    parsed: onnx.FunctionProto = parser.parse_function(f"{_HEADER}\n{text.strip()}")
    return parsed
