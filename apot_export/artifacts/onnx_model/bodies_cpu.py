"""Bodies for the CPU provider of ONNX Runtime: integer matrix products, channels last.

Each body takes and gives N C H W, and works on N H W C between two transpositions. Those of
neighbouring bodies cancel when a runtime optimises the graph, so that the whole network stays
channels last; the accumulators remain values of the graph, int32 N C H W for whoever asks for them.
"""

from __future__ import annotations

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

_SHIFT_CONV_PATCHES = f"""
ShiftConv
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
"""
"""`margins` int64 [8]: the padding of N H W C; `flat_shape` [3]: (0, places of the padded image,
channels). A tap of a place lies at `rows` + `columns` + `tap_rows` + `tap_columns` of the flat
image. `patch_shape` [4]: (0, height, width, taps * channels); `weight_shape` [2]: (taps * channels,
outputs). Gathering whole pixels is the fastest way to patches that standard operators have."""

_SHIFT_CONV_POINTWISE = f"""
ShiftConv <strides, pads, dilations, group, weight_shape: ints>
    (levels, weights) => (accumulators)
{{
    image = {_TO_CHANNELS_LAST} (levels){_WEIGHT_ROWS}
    sums = MatMulInteger (image, weight_rows)
    accumulators = {_TO_CHANNELS_FIRST} (sums)
}}
"""

_SHIFT_GEMM_PRODUCT = """
ShiftGemm (levels, weights) => (accumulators)
{
    columns = Transpose <perm: ints = [1, 0]> (weights)
    accumulators = MatMulInteger (levels, columns)
}
"""

_QUANTIZE_CHANNELS_LAST = f"""
QuantizeActivation
    <alpha: float, bits: int, denominator: int, digit_tables: ints, digit_table_sizes: ints,
     image_shape: ints>
    (x, scale, last, levels) => (quantized)
{{
    image = {_TO_CHANNELS_LAST} (x)
    zero = Constant <value_float: float = 0.0> ()
    threshold = Div (last, scale)
    tolerance = Constant <value_float: float = 1.000001> ()
    limit = Mul (threshold, tolerance)
    clipped = Clip (image, zero, limit)
    scaled = Mul (clipped, scale)
    image_index = Cast <to: int = 6> (scaled)
    minus_one = Constant <value_ints: ints = [-1]> ()
    index = Reshape (image_index, minus_one)
    flat_levels = GatherElements <axis: int = 0> (levels, index)
    image_shape = Constant <value_ints: ints = @image_shape> ()
    image_levels = Reshape (flat_levels, image_shape)
    quantized = {_TO_CHANNELS_FIRST} (image_levels)
}}
"""
"""`image_shape` [4]: (-1, height, width, channels). A shape that is known before the session runs
lets the runtime see through to the transpositions."""

_SCALE_BIAS_CHANNELS_LAST = f"""
ScaleBias (x, scale, bias, one) => (y)
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
"""
"""ONNX Runtime fuses MatMulInteger, Cast, Mul by a product and Add into one kernel. The product is
`scale` times a 1 that it must not know, or it would fold the product and not see the pattern."""

_SCALE_BIAS_PRODUCT = """
ScaleBias (x, scale, bias, one) => (y)
{
    minus_one = Constant <value_ints: ints = [-1]> ()
    channel_scale = Reshape (scale, minus_one)
    channel_bias = Reshape (bias, minus_one)
    factor = Mul (one, channel_scale)
    values = Cast <to: int = 1> (x)
    scaled = Mul (values, factor)
    y = Add (scaled, channel_bias)
}
"""

_KEEP_CHANNELS_LAST = f"""
KeepChannelsLast <image_shape: ints> (x) => (y)
{{
    image = {_TO_CHANNELS_LAST} (x)
    image_shape = Constant <value_ints: ints = @image_shape> ()
    shaped = Reshape (image, image_shape)
    y = {_TO_CHANNELS_FIRST} (shaped)
}}
"""
"""The input. What two readers share is transposed once, before either of them: the shape stands
between the transpositions, which would cancel and come back for every reader."""

_ONE = """
One (x) => (one)
{
    batch = Shape <start: int = 0, end: int = 1> (x)
    equal = Equal (batch, batch)
    one = Cast <to: int = 1> (equal)
}
"""
"""1.0 [1], computed from the batch size so that no runtime folds it."""

BODIES = {
    ("ShiftConv", PATCHES): _SHIFT_CONV_PATCHES,
    ("ShiftConv", POINTWISE): _SHIFT_CONV_POINTWISE,
    ("ShiftGemm", PRODUCT): _SHIFT_GEMM_PRODUCT,
    ("QuantizeActivation", CHANNELS_LAST): _QUANTIZE_CHANNELS_LAST,
    ("ScaleBias", CHANNELS_LAST): _SCALE_BIAS_CHANNELS_LAST,
    ("ScaleBias", PRODUCT): _SCALE_BIAS_PRODUCT,
    ("One", ""): _ONE,
    ("KeepChannelsLast", ""): _KEEP_CHANNELS_LAST,
}
