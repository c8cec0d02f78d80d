"""The `apot` operators of integer networks, with bodies that compute exactly their one result.

Stock runtimes lack integer convolutions of such widths. The bodies carry integers in float64 below
2^53, in float32 below 2^24, or in int64 below 2^62: all proven by the exporter, so that no rounding
ever happens and every backend gives the same bits.
"""

from __future__ import annotations

from apot_export.artifacts.onnx_model.functions import CONV

QUANTIZE = "ThresholdQuantize"
"""levels[count of thresholds <= direction * x]; the overload `bitsB` searches 2 ** B - 1 of them.

`thresholds` is flat, channel by channel; `bases` int64 says where each channel's begin.
"""

_PARTS = """
    x = Cast <to: int = 11> (input)
    part_size = Constant <value: tensor = double {65536}> ()
    ratio = Div (x, part_size)
    high = Floor (ratio)
    high_values = Mul (high, part_size)
    low = Sub (x, high_values)
    high_float = Cast <to: int = 1> (high)
    low_float = Cast <to: int = 1> (low)
"""
"""int32 as two halves of 16 bits, each exact in float32."""


def _search(bits: int) -> str:
    """Return the body of a binary search in B steps."""
    steps = [
        f"""
    size_{step} = Constant <value_int: int = {1 << step}> ()
    middle_{step} = Constant <value_int: int = {(1 << step) - 1}> ()
    probe_{step} = Add (first_{step + 1}, middle_{step})
    threshold_{step} = Gather <axis: int = 0> (thresholds, probe_{step})
    above_{step} = GreaterOrEqual (directed, threshold_{step})
    above_int64_{step} = Cast <to: int = 7> (above_{step})
    advance_{step} = Mul (above_int64_{step}, size_{step})
    first_{step} = Add (first_{step + 1}, advance_{step})
"""
        for step in reversed(range(bits))
    ]
    return f"""
{QUANTIZE}:bits{bits} (x, direction, thresholds, bases, levels) => (quantized)
{{
    directed = Mul (x, direction)
    shape = Shape (x)
    first_{bits} = Expand (bases, shape)
    {"".join(steps).strip()}
    count = Sub (first_0, bases)
    quantized = Gather <axis: int = 0> (levels, count)
}}
"""


INTEGER_FUNCTIONS = f"""
# clamp(floor(x * 2 ** fraction_bits + 1/2), low, high).
ToFixed <fraction_bits: int, low: int, high: int> (image, scale, lowest, highest) => (fixed)
{{
    wide = Cast <to: int = 11> (image)
    scaled = Mul (wide, scale)
    half = Constant <value: tensor = double {{0.5}}> ()
    raised = Add (scaled, half)
    whole = Floor (raised)
    clipped = Clip (whole, lowest, highest)
    fixed = Cast <to: int = 6> (clipped)
}}

# Fixed-point int32 convolved with integer weights: int64.
#
# A convolution with one-hot kernels (`eye`, one for each tap, repeated for each channel) unfolds
# the image into patches; their product with the weights is taken in float64.
FixedConv <strides, pads, dilations, group, kernel_shape>
    (input, weights, eye, repeats, grouped_patches, grouped_weights, flat_shape, image_shape)
    => (sums)
{{{_PARTS}
    kernels = Tile (eye, repeats)
    high_patches = {CONV} (high_float, kernels)
    low_patches = {CONV} (low_float, kernels)
    wide_high = Cast <to: int = 11> (high_patches)
    wide_low = Cast <to: int = 11> (low_patches)
    scaled = Mul (wide_high, part_size)
    patches = Add (scaled, wide_low)
    columns = Reshape (patches, grouped_patches)
    wide_weights = Cast <to: int = 11> (weights)
    rows = Reshape (wide_weights, grouped_weights)
    products = MatMul (rows, columns)
    flat = Reshape (products, flat_shape)
    image = Reshape (flat, image_shape)
    sums = Cast <to: int = 7> (image)
}}

# Fixed-point integers [N, in] times integer weights [out, in] transposed: int64.
FixedGemm (input, weights) => (sums)
{{
    x = Cast <to: int = 11> (input)
    w = Cast <to: int = 11> (weights)
    transposed = Transpose <perm: ints = [1, 0]> (w)
    products = MatMul (x, transposed)
    sums = Cast <to: int = 7> (products)
}}

# (x * multiplier + offset) >> shift per channel: int64.
#
# ONNX shifts unsigned integers only, and divides towards 0; so 2^62 is added before the division by
# `divisor` = 2^shift, within `raised_offset`, and `correction` = 2^(62 - shift) is
# subtracted after it.
Requantize <shift: int> (x, multiplier, raised_offset, divisor, correction) => (y)
{{
    wide = Cast <to: int = 7> (x)
    product = Mul (wide, multiplier)
    positive = Add (product, raised_offset)
    shifted = Div (positive, divisor)
    y = Sub (shifted, correction)
}}

# Sum of every window, channel by channel: int64. A window has at most 256 places.
WindowSum <kernel_shape, strides, group> (input, ones) => (sums)
{{{_PARTS}
    high_sums = Conv <strides: ints = @strides, group: int = @group> (high_float, ones)
    low_sums = Conv <strides: ints = @strides, group: int = @group> (low_float, ones)
    wide_high = Cast <to: int = 11> (high_sums)
    wide_low = Cast <to: int = 11> (low_sums)
    scaled = Mul (wide_high, part_size)
    total = Add (scaled, wide_low)
    sums = Cast <to: int = 7> (total)
}}

# Largest int32 of every window.
IntegerMaxPool <kernel_shape, strides, pads> (input) => (output)
{{
    x = Cast <to: int = 11> (input)
    largest = MaxPool <kernel_shape: ints = @kernel_shape, strides: ints = @strides,
        pads: ints = @pads> (x)
    output = Cast <to: int = 6> (largest)
}}
""" + "".join(_search(bits) for bits in range(32))
