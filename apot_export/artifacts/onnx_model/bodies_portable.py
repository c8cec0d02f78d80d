"""Bodies of the portable target beside the usual ones: fewer multiplications, fewer passes.

They are made of operators that every runtime has, and carry the same integers in float32.
"""

from __future__ import annotations

WINOGRAD = "winograd"
"""`ShiftConv` of 3 x 3 taps with stride 1: 4 products where direct convolution takes 6."""
NORMALIZED = "normalized"
"""`ScaleBias` of images in one pass."""

_TRANSFORM = "Conv <group: int = @channels, strides: ints = [2, 1], pads: ints = @edges>"
_PRODUCT = "Conv <pads: ints = @sides>"

_SHIFT_CONV_WINOGRAD = f"""
ShiftConv
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
"""
"""Winograd's F(2, 3) over rows: two rows of accumulators from four rows of levels,

    even = (l0 - l2) t + (l1 + l2) (t + m + b) / 2 + (l2 - l1) (t - m + b) / 2
    odd  = (l1 + l2) (t + m + b) / 2 - (l2 - l1) (t - m + b) / 2 - (l1 - l3) b

with the taps' rows t, m, b (Lavin and Gray, arXiv:1509.09308). Halves are exact in float32 as
integers are: the exporter proves the range. `channels` = input channels; `transform_shape` [4]:
(channels, 1, 1, 1); `edges` and `sides`: the padding above and below, left and right;
`joined_shape` [4]: (0, outputs, rows made, columns); `ends` [1]: the rows that there are, or the
largest integer where those are all that were made.
"""

_ROUNDING_FREE_EPSILON = 2.0**-16
"""Added to a variance of 1 less it, it gives 1 without rounding, and no runtime finds it too small:
some libraries raise an epsilon below 1e-5."""

_SCALE_BIAS_NORMALIZED = f"""
ScaleBias (x, scale, bias) => (y)
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
"""Batch normalisation of mean 0 and variance 1: one pass over the values instead of two."""

BODIES = {
    ("ShiftConv", WINOGRAD): _SHIFT_CONV_WINOGRAD,
    ("ScaleBias", NORMALIZED): _SCALE_BIAS_NORMALIZED,
}
