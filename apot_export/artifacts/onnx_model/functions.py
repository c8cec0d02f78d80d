"""The `apot` operators: what each means, and a body of standard operators that computes it.

A node carries codes, digit tables, threshold and step as inputs and attributes, so that a hardware
compiler can match it. The body is what any ONNX runtime executes. Bodies are written in ONNX's text
format, as OPERATOR:OVERLOAD where they are not an operator's usual one.
"""

from __future__ import annotations

SPLIT = "split"
"""Overload of `ShiftConv` and `ShiftGemm` for accumulators beyond the integers of float32."""
THREE_PARTS = "three_parts"
"""Overload of `IntegerConv` and `IntegerGemm` that TF32 on CUDA does not round."""
WINOGRAD = "winograd"
"""Portable `ShiftConv` of 3 x 3 taps with stride 1: 4 products where direct convolution takes 6."""
NORMALIZED = "normalized"
"""Portable `ScaleBias` of images in one pass."""

CONV = (
    "Conv <strides: ints = @strides, pads: ints = @pads, "
    "dilations: ints = @dilations, group: int = @group>"
)
GEMM = "Gemm <transB: int = 1>"
_TRANSFORM = "Conv <group: int = @channels, strides: ints = [2, 1], pads: ints = @edges>"
_PRODUCT = "Conv <pads: ints = @sides>"

_ROUNDING_FREE_EPSILON = 2.0**-16
"""Added to a variance of 1 less it, it gives 1 without rounding, and no runtime finds it too small:
some libraries raise an epsilon below 1e-5."""

QUANTIZER_LIMIT = """
    zero = Constant <value_float: float = 0.0> ()
    threshold = Div (last, scale)
    tolerance = Constant <value_float: float = 1.000001> ()
    limit = Mul (threshold, tolerance)"""
FLAT_LEVELS = """
    scaled = Mul (clipped, scale)
    image_index = Cast <to: int = 6> (scaled)
    minus_one = Constant <value_ints: ints = [-1]> ()
    index = Reshape (image_index, minus_one)
    flat_levels = GatherElements <axis: int = 0> (levels, index)"""
"""Lines of quantizers: what they clip at, and the levels of clipped values."""

_PRODUCTS = """
# Integer levels convolved with integer weights, or [N, in] times transposed [out, in]: int32.
#
# The body carries integers in float32, exactly: the exporter proves that no partial sum reaches
# 2^24. The cast to int32 also keeps runtimes from folding scales into the weights.
Shift{kind} {attributes} (levels, weights) => (accumulators)
{{
    x = Cast <to: int = 1> (levels)
    w = Cast <to: int = 1> (weights)
    exact = {operator} (x, w)
    accumulators = Cast <to: int = 6> (exact)
}}

# The same where one accumulator could reach 2^24: the sums of the levels' high and low bits.
#
# `low_values` = `low_scale` = 2 ** (bits of the low part).
Shift{kind}:{split} {split_attributes} (levels, weights) => (accumulators)
{{
    x = Cast <to: int = 1> (levels)
    w = Cast <to: int = 1> (weights)
    size = Constant <value_float: float = @low_values> ()
    ratio = Div (x, size)
    high = Floor (ratio)
    high_part = Mul (high, size)
    low = Sub (x, high_part)
    high_sums = {operator} (high, w)
    low_sums = {operator} (low, w)
    high_integers = Cast <to: int = 6> (high_sums)
    low_integers = Cast <to: int = 6> (low_sums)
    scale_int64 = Constant <value_int: int = @low_scale> ()
    scale = Cast <to: int = 6> (scale_int64)
    scaled = Mul (high_integers, scale)
    accumulators = Add (scaled, low_integers)
}}

# A float tensor times integer weights: float32, in units of the weights' step.
Integer{kind} {attributes} (x, weights) => (sums)
{{
    w = Cast <to: int = 1> (weights)
    sums = {operator} (x, w)
}}

# TF32 keeps 11 significant bits of each factor and sums in float32. bfloat16 holds 8 of the 24 of
# `x`: the rest is exact, and so is the rest after a second one. The weights are integers of at most
# 11 significant bits.
Integer{kind}:{three_parts} {attributes} (x, weights) => (sums)
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
"""Functions that multiply by a layer's weights with a standard operator, `Conv` or `Gemm`."""


def _products(kind: str, operator: str, geometry: tuple[str, ...]) -> str:
    """Return `_PRODUCTS` for an operator whose attributes are its geometry."""
    return _PRODUCTS.format(
        kind=kind,
        operator=operator,
        attributes=f"<{', '.join(geometry)}>" if geometry else "",
        split_attributes=f"<{', '.join((*geometry, 'low_values: float', 'low_scale: int'))}>",
        split=SPLIT,
        three_parts=THREE_PARTS,
    )


FUNCTIONS = f"""
# Packed codes to integer levels.
#
# `packed` uint8: the bit stream of FORMAT.md, filled to whole groups of codes that end on a byte
# boundary; `windows` uint32 [bytes, codes] gathers the bytes that each code of a group lies in,
# `shifts` uint32 [codes] and `mask` uint32 cut it out; `levels` is the level of every code, `shape`
# int64 the weight shape. The attributes state the codebook: code = sign bit above one selector per
# digit table (the tables one after the other, with their sizes),
# value = level * alpha / denominator.
DecodeWeights
    <bits: int, signed: int, denominator: int, digit_tables: ints, digit_table_sizes: ints>
    (packed, windows, shifts, mask, levels, shape) => (weights)
{{
    bytes_per_group = Shape <start: int = 0, end: int = 1> (windows)
    minus_one = Constant <value_ints: ints = [-1]> ()
    group_shape = Concat <axis: int = 0> (minus_one, bytes_per_group)
    groups = Reshape (packed, group_shape)
    wide = Cast <to: int = 12> (groups)
    code_windows = MatMul (wide, windows)
    shifted = BitShift <direction: string = "RIGHT"> (code_windows, shifts)
    masked = BitwiseAnd (shifted, mask)
    flat = Reshape (masked, minus_one)
    start = Constant <value_ints: ints = [0]> ()
    count = ReduceProd <keepdims: int = 1> (shape)
    used = Slice (flat, start, count)
    codes = Cast <to: int = 6> (used)
    flat_levels = GatherElements <axis: int = 0> (levels, codes)
    weights = Reshape (flat_levels, shape)
}}

# Floats to integer levels: levels[floor(clip(x * scale, 0, last))].
#
# `scale` = 2 * denominator / alpha and `last` = 2 * denominator, float32 scalars; `levels` is the
# level of every half step, in the type that the levels are to have: integers, or float32 that holds
# them.
#
# It clips before it scales, so that runtimes fuse the clip with a ReLU. The limit lies a few
# roundings beyond alpha: whatever is clipped by it has the last index all the same, since that
# index ends one whole step further, and what is not clipped is scaled as ever.
QuantizeActivation
    <alpha: float, bits: int, denominator: int, digit_tables: ints, digit_table_sizes: ints>
    (x, scale, last, levels) => (quantized)
{{{QUANTIZER_LIMIT}
    clipped = Clip (x, zero, limit){FLAT_LEVELS}
    shape = Shape (x)
    quantized = Reshape (flat_levels, shape)
}}

# x * scale + bias per channel, each operation rounded to float32; x may be int32.
ScaleBias (x, scale, bias) => (y)
{{
    values = Cast <to: int = 1> (x)
    scaled = Mul (values, scale)
    y = Add (scaled, bias)
}}
{_products("Conv", CONV, ("strides", "pads", "dilations", "group"))}
{_products("Gemm", GEMM, ())}
# Packed bit-planes to float weights: every group is the sum of its scaled sign vectors.
#
# `planes` uint8: one bit a weight and basis, dense, 1 for +1; `coordinates` float32 [bases];
# `counts` uint8 [groups]: bases of each group; `places` int64 [largest count]: 0, 1, 2, ...; the
# groups are put into `grouped_shape` int64 [3], transposed by `order` and given the weight `shape`.
# Bits are masked, not shifted: OpenVINO shifts uint8 by a division that rounds.
DecodePlanes <group_size: int, position_major: int, order: ints>
    (planes, coordinates, counts, places, grouped_shape, shape) => (weights)
{{
    minus_one = Constant <value_ints: ints = [-1]> ()
    zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()
    column = Unsqueeze (planes, one)
    masks_int64 = Constant <value_ints: ints = [1, 2, 4, 8, 16, 32, 64, 128]> ()
    masks = Cast <to: int = 2> (masks_int64)
    masked = BitwiseAnd (column, masks)
    is_positive = Cast <to: int = 9> (masked)
    bits = Cast <to: int = 2> (is_positive)
    stream = Reshape (bits, minus_one)
    bases = Shape <start: int = 0, end: int = 1> (coordinates)
    scalar_size = Constant <value_int: int = @group_size> ()
    size = Reshape (scalar_size, minus_one)
    used = Mul (bases, size)
    used_bits = Slice (stream, zero, used)
    rows = Concat <axis: int = 0> (minus_one, size)
    basis_bits = Reshape (used_bits, rows)
    basis_floats = Cast <to: int = 1> (basis_bits)
    two = Constant <value_float: float = 2.0> ()
    unit = Constant <value_float: float = 1.0> ()
    doubled = Mul (basis_floats, two)
    signs = Sub (doubled, unit)
    scales = Unsqueeze (coordinates, one)
    scaled = Mul (signs, scales)
    zero_row_shape = Concat <axis: int = 0> (one, size)
    zero_row = ConstantOfShape (zero_row_shape)
    scaled_and_zero = Concat <axis: int = 0> (scaled, zero_row)
    counts_int64 = Cast <to: int = 7> (counts)
    first_axis = Constant <value_int: int = 0> ()
    starts = CumSum <exclusive: int = 1> (counts_int64, first_axis)
    starts_column = Unsqueeze (starts, one)
    counts_column = Unsqueeze (counts_int64, one)
    candidates = Add (starts_column, places)
    present = Less (places, counts_column)
    slots = Where (present, candidates, bases)
    chosen = Gather <axis: int = 0> (scaled_and_zero, slots)
    groups = ReduceSum <keepdims: int = 0> (chosen, one)
    grouped = Reshape (groups, grouped_shape)
    ordered = Transpose <perm: ints = @order> (grouped)
    weights = Reshape (ordered, shape)
}}

# Coordinates as sums of powers of two, rounded once: `terms` uint8 [bases, K], `values` float64
# [256]: the power of two that each term stands for.
SumTerms (terms, values) => (coordinates)
{{
    one = Constant <value_ints: ints = [1]> ()
    minus_one = Constant <value_ints: ints = [-1]> ()
    flat = Reshape (terms, minus_one)
    codes = Cast <to: int = 6> (flat)
    flat_values = GatherElements <axis: int = 0> (values, codes)
    shape = Shape (terms)
    summands = Reshape (flat_values, shape)
    sums = ReduceSum <keepdims: int = 0> (summands, one)
    coordinates = Cast <to: int = 1> (sums)
}}

# Winograd's F(2, 3) over rows: two rows of accumulators from four rows of levels,
#
#     even = (l0 - l2) t + (l1 + l2) (t + m + b) / 2 + (l2 - l1) (t - m + b) / 2
#     odd  = (l1 + l2) (t + m + b) / 2 - (l2 - l1) (t - m + b) / 2 - (l1 - l3) b
#
# with the taps' rows t, m, b (Lavin and Gray, arXiv:1509.09308). Halves are exact in float32 as
# integers are: the exporter proves the range. `channels` = input channels; `transform_shape` [4]:
# (channels, 1, 1, 1); `edges` and `sides`: the padding above and below, left and right;
# `joined_shape` [4]: (0, outputs, rows made, columns); `ends` [1]: the rows that there are, or the
# largest integer where those are all that were made.
ShiftConv:{WINOGRAD}
    <strides, pads, dilations, group, channels: int, transform_shape: ints, edges: ints,
     sides: ints, joined_shape: ints, ends: ints>
    (levels, weights) => (accumulators)
{{
    x = Cast <to: int = 1> (levels)
    w = Cast <to: int = 1> (weights)
    top, middle, bottom = Split <axis: int = 2, num_outputs: int = 3> (w)
    outer = Add (top, bottom)
    half = Constant <value_float: float = 0.5> ()
    tap_sum = Add (outer, middle)
    tap_difference = Sub (outer, middle)
    half_sum = Mul (tap_sum, half)
    half_difference = Mul (tap_difference, half)
    negative_bottom = Neg (bottom)
    first = Constant <value: tensor = float [1, 1, 4, 1] {{1.0, 0.0, -1.0, 0.0}}> ()
    second = Constant <value: tensor = float [1, 1, 4, 1] {{0.0, 1.0, 1.0, 0.0}}> ()
    third = Constant <value: tensor = float [1, 1, 4, 1] {{0.0, -1.0, 1.0, 0.0}}> ()
    fourth = Constant <value: tensor = float [1, 1, 4, 1] {{0.0, 1.0, 0.0, -1.0}}> ()
    transform_shape = Constant <value_ints: ints = @transform_shape> ()
    first_rows = Expand (first, transform_shape)
    second_rows = Expand (second, transform_shape)
    third_rows = Expand (third, transform_shape)
    fourth_rows = Expand (fourth, transform_shape)
    x_first = {_TRANSFORM} (x, first_rows)
    x_second = {_TRANSFORM} (x, second_rows)
    x_third = {_TRANSFORM} (x, third_rows)
    x_fourth = {_TRANSFORM} (x, fourth_rows)
    first_sums = {_PRODUCT} (x_first, top)
    second_sums = {_PRODUCT} (x_second, half_sum)
    third_sums = {_PRODUCT} (x_third, half_difference)
    fourth_sums = {_PRODUCT} (x_fourth, negative_bottom)
    upper = Add (first_sums, second_sums)
    even = Add (upper, third_sums)
    lower = Add (second_sums, fourth_sums)
    odd = Sub (lower, third_sums)
    pairs = Concat <axis: int = 3> (even, odd)
    joined_shape = Constant <value_ints: ints = @joined_shape> ()
    joined = Reshape (pairs, joined_shape)
    starts = Constant <value_ints: ints = [0]> ()
    ends = Constant <value_ints: ints = @ends> ()
    row_axis = Constant <value_ints: ints = [2]> ()
    exact = Slice (joined, starts, ends, row_axis)
    accumulators = Cast <to: int = 6> (exact)
}}

# Batch normalisation of mean 0 and variance 1: one pass over the values instead of two.
ScaleBias:{NORMALIZED} (x, scale, bias) => (y)
{{
    minus_one = Constant <value_ints: ints = [-1]> ()
    channel_scale = Reshape (scale, minus_one)
    channel_bias = Reshape (bias, minus_one)
    channels = Shape (channel_scale)
    mean = ConstantOfShape <value: tensor = float [1] {{0.0}}> (channels)
    variance = ConstantOfShape
        <value: tensor = float [1] {{{1 - _ROUNDING_FREE_EPSILON!r}}}> (channels)
    values = Cast <to: int = 1> (x)
    y = BatchNormalization <epsilon: float = {_ROUNDING_FREE_EPSILON!r}>
        (values, channel_scale, channel_bias, mean, variance)
}}
"""
