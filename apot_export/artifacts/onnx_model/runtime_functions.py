"""Functions for certain runtimes: ONNX Runtime's CPU provider, and OpenVINO.

ONNX Runtime: integer matrix products, channels last. Each body takes and gives N C H W, and works
on N H W C between two transpositions. Those of neighbouring bodies cancel when a runtime optimises
the graph, so that the whole network stays channels last; the accumulators remain values of the
graph, int32 N C H W for whoever asks for them.

OpenVINO makes a convolution an 8-bit one where it reads a `QuantizeLinear` of the input and 8-bit
weights, and it must see the weights decoded (see `openvino_model`). Its kernels are channels last;
its `Gather` is not, unless the graph is transposed around it.
"""

from __future__ import annotations

from apot_export.artifacts.onnx_model.functions import CONV, FLAT_LEVELS, GEMM, QUANTIZER_LIMIT

# --- ONNX Runtime on CPUs -------------------------------------------------------------------------

PATCHES = "patches"
"""`ShiftConv`: image patches as rows, times a matrix of weights."""
POINTWISE = "pointwise"
"""`ShiftConv` with one tap, stride 1 and no padding: every place is a row."""
PRODUCT = "product"
"""`ShiftGemm` in integers, and the `ScaleBias` after it."""
CHANNELS_LAST = "channels_last"
"""`QuantizeActivation` and `ScaleBias` around such convolutions."""

_TO_CHANNELS_LAST = "Transpose <perm: ints = [0, 2, 3, 1]>"
_TO_CHANNELS_FIRST = "Transpose <perm: ints = [0, 3, 1, 2]>"
_WEIGHT_ROWS = """
    by_tap = Transpose <perm: ints = [2, 3, 1, 0]> (weights)
    weight_shape = Constant <value_ints: ints = @weight_shape> ()
    weight_rows = Reshape (by_tap, weight_shape)
"""

CPU_FUNCTIONS = f"""
# `margins` int64 [8]: the padding of N H W C; `flat_shape` [3]: (0, places of the padded image,
# channels). A tap of a place lies at `rows` + `columns` + `tap_rows` + `tap_columns` of the flat
# image. `patch_shape` [4]: (0, height, width, taps * channels); `weight_shape` [2]:
# (taps * channels, outputs). Gathering whole pixels is the fastest way to patches that standard
# operators have.
ShiftConv:{PATCHES}
    <strides, pads, dilations, group, margins: ints, flat_shape: ints, rows: ints, columns: ints,
     tap_rows: ints, tap_columns: ints, patch_shape: ints, weight_shape: ints>
    (levels, weights) => (accumulators)
{{
    image = {_TO_CHANNELS_LAST} (levels)
    margins = Constant <value_ints: ints = @margins> ()
    padded = Pad (image, margins)
    flat_shape = Constant <value_ints: ints = @flat_shape> ()
    flat = Reshape (padded, flat_shape)
    rows = Constant <value_ints: ints = @rows> ()
    columns = Constant <value_ints: ints = @columns> ()
    tap_rows = Constant <value_ints: ints = @tap_rows> ()
    tap_columns = Constant <value_ints: ints = @tap_columns> ()
    row_axes = Constant <value_ints: ints = [1, 2, 3]> ()
    column_axes = Constant <value_ints: ints = [0, 2, 3]> ()
    tap_row_axes = Constant <value_ints: ints = [0, 1, 3]> ()
    tap_column_axes = Constant <value_ints: ints = [0, 1, 2]> ()
    row_offsets = Unsqueeze (rows, row_axes)
    column_offsets = Unsqueeze (columns, column_axes)
    tap_row_offsets = Unsqueeze (tap_rows, tap_row_axes)
    tap_column_offsets = Unsqueeze (tap_columns, tap_column_axes)
    places = Add (row_offsets, column_offsets)
    taps = Add (tap_row_offsets, tap_column_offsets)
    grid = Add (places, taps)
    minus_one = Constant <value_ints: ints = [-1]> ()
    positions_int64 = Reshape (grid, minus_one)
    positions = Cast <to: int = 6> (positions_int64)
    patches = Gather <axis: int = 1> (flat, positions)
    patch_shape = Constant <value_ints: ints = @patch_shape> ()
    patch_rows = Reshape (patches, patch_shape){_WEIGHT_ROWS}
    sums = MatMulInteger (patch_rows, weight_rows)
    accumulators = {_TO_CHANNELS_FIRST} (sums)
}}

ShiftConv:{POINTWISE} <strides, pads, dilations, group, weight_shape: ints>
    (levels, weights) => (accumulators)
{{
    image = {_TO_CHANNELS_LAST} (levels){_WEIGHT_ROWS}
    sums = MatMulInteger (image, weight_rows)
    accumulators = {_TO_CHANNELS_FIRST} (sums)
}}

ShiftGemm:{PRODUCT} (levels, weights) => (accumulators)
{{
    columns = Transpose <perm: ints = [1, 0]> (weights)
    accumulators = MatMulInteger (levels, columns)
}}

# `image_shape` [4]: (-1, height, width, channels). A shape that is known before the session runs
# lets the runtime see through to the transpositions.
QuantizeActivation:{CHANNELS_LAST}
    <alpha: float, bits: int, denominator: int, digit_tables: ints, digit_table_sizes: ints,
     image_shape: ints>
    (x, scale, last, levels) => (quantized)
{{
    image = {_TO_CHANNELS_LAST} (x){QUANTIZER_LIMIT}
    clipped = Clip (image, zero, limit){FLAT_LEVELS}
    image_shape = Constant <value_ints: ints = @image_shape> ()
    image_levels = Reshape (flat_levels, image_shape)
    quantized = {_TO_CHANNELS_FIRST} (image_levels)
}}

# ONNX Runtime fuses MatMulInteger, Cast, Mul by a product and Add into one kernel. The product is
# `scale` times a 1 that it must not know, or it would fold the product and not see the pattern.
ScaleBias:{CHANNELS_LAST} (x, scale, bias, one) => (y)
{{
    image = {_TO_CHANNELS_LAST} (x)
    minus_one = Constant <value_ints: ints = [-1]> ()
    channel_scale = Reshape (scale, minus_one)
    channel_bias = Reshape (bias, minus_one)
    factor = Mul (one, channel_scale)
    values = Cast <to: int = 1> (image)
    scaled = Mul (values, factor)
    shifted = Add (scaled, channel_bias)
    y = {_TO_CHANNELS_FIRST} (shifted)
}}

ScaleBias:{PRODUCT} (x, scale, bias, one) => (y)
{{
    minus_one = Constant <value_ints: ints = [-1]> ()
    channel_scale = Reshape (scale, minus_one)
    channel_bias = Reshape (bias, minus_one)
    factor = Mul (one, channel_scale)
    values = Cast <to: int = 1> (x)
    scaled = Mul (values, factor)
    y = Add (scaled, channel_bias)
}}

# The input. What two readers share is transposed once, before either of them: the shape stands
# between the transpositions, which would cancel and come back for every reader.
KeepChannelsLast <image_shape: ints> (x) => (y)
{{
    image = {_TO_CHANNELS_LAST} (x)
    image_shape = Constant <value_ints: ints = @image_shape> ()
    shaped = Reshape (image, image_shape)
    y = {_TO_CHANNELS_FIRST} (shaped)
}}

# 1.0 [1], computed from the batch size so that no runtime folds it.
One (x) => (one)
{{
    batch = Shape <start: int = 0, end: int = 1> (x)
    equal = Equal (batch, batch)
    one = Cast <to: int = 1> (equal)
}}
"""

# --- OpenVINO -------------------------------------------------------------------------------------

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

_INDEX = "index = Cast <to: int = 6> (clipped)"
_BYTE_INDEX = """byte = Cast <to: int = 2> (clipped)
    index = Cast <to: int = 6> (byte)"""
"""An index that is narrowed first costs OpenVINO less."""


def _quantizers(ending: str, index: str) -> str:
    """Return both quantizers, which turn clipped floats into an index in the same way."""
    return f"""
# The flat shape keeps OpenVINO from moving the transpositions, which are free where they are.
QuantizeActivation:{GATHER}{ending}
    <alpha: float, bits: int, denominator: int, digit_tables: ints, digit_table_sizes: ints,
     image_shape: ints>
    (x, scale, last, levels) => (quantized)
{{
    image = {_TO_CHANNELS_LAST} (x)
    rows = Constant <value_ints: ints = [0, -1]> ()
    flat = Reshape (image, rows)
    scaled = Mul (flat, scale)
    zero = Constant <value_float: float = 0.0> ()
    clipped = Clip (scaled, zero, last)
    {index}
    flat_levels = Gather <axis: int = 0> (levels, index)
    image_shape = Constant <value_ints: ints = @image_shape> ()
    image_levels = Reshape (flat_levels, image_shape)
    quantized = {_TO_CHANNELS_FIRST} (image_levels)
}}

QuantizeActivation:{GATHER_FLAT}{ending}
    <alpha: float, bits: int, denominator: int, digit_tables: ints, digit_table_sizes: ints>
    (x, scale, last, levels) => (quantized)
{{
    scaled = Mul (x, scale)
    zero = Constant <value_float: float = 0.0> ()
    clipped = Clip (scaled, zero, last)
    {index}
    quantized = Gather <axis: int = 0> (levels, index)
}}
"""


OPENVINO_FUNCTIONS = f"""
ShiftConv:{EIGHT_BITS} <strides, pads, dilations, group> (levels, weights) => (accumulators)
{{
    ordered = {_TO_CHANNELS_LAST} (levels){_QUANTIZED}
    x = {_TO_CHANNELS_FIRST} (dequantized)
    exact = {CONV} (x, w)
    accumulators = Cast <to: int = 6> (exact)
}}

ShiftGemm:{EIGHT_BITS} (levels, weights) => (accumulators)
{{
    ordered = Identity (levels){_QUANTIZED}
    exact = {GEMM} (dequantized, w)
    accumulators = Cast <to: int = 6> (exact)
}}
{_quantizers("", _INDEX)}
{_quantizers(BYTES, _BYTE_INDEX)}
"""
