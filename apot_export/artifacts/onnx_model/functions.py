"""The `apot` operators as ONNX functions: the bodies of standard operators that compute them.

A node carries codes, digit tables, threshold and step as inputs and attributes, so that a hardware
compiler can match it. The body is what any ONNX runtime executes. The folder `functions` holds the
bodies in ONNX's text format, as OPERATOR_BODY where they are not an operator's usual one: runtimes
before 2026 refuse several bodies of one name.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

import onnx
from onnx import parser

DOMAIN = "apot"
OPSET = 18
"""What `Split` into equal parts and `BitwiseAnd` need."""
PLAIN_OPSET = 14
"""The first one with today's `Add`, `Mul`, `Clip`, `Cast` and `Gather`."""

# --- bodies: any runtime -----------------------------------------------------------------------

SPLIT = "split"
"""`ShiftConv` and `ShiftGemm` for accumulators beyond the integers of float32."""
WINOGRAD = "winograd"
"""`ShiftConv` of 3 x 3 taps with stride 1: 4 products where direct convolution takes 6."""
SIGNED = "signed"
"""`QuantizeActivation` to levels below 0, too, on every target."""
NORMALIZED = "normalized"
"""`ScaleBias` of images in one pass."""

# --- bodies: ONNX Runtime on CPUs --------------------------------------------------------------

PATCHES = "patches"
"""`ShiftConv`: image patches as rows, times a matrix of weights."""
POINTWISE = "pointwise"
"""`ShiftConv` with one tap, stride 1 and no padding: every place is a row."""
PRODUCT = "product"
"""`ShiftGemm` in integers, and the `ScaleBias` after it."""
CHANNELS_LAST = "channels_last"
"""`QuantizeActivation` and `ScaleBias` around such convolutions."""

# --- bodies: other runtimes --------------------------------------------------------------------

THREE_PARTS = "three_parts"
"""`IntegerConv` and `IntegerGemm` that TF32 on CUDA does not round."""
EIGHT_BITS = "eight_bits"
"""`ShiftConv` and `ShiftGemm` in 8-bit kernels of OpenVINO."""
GATHER = "gather"
"""`QuantizeActivation` of images by `Gather`, channels last, for OpenVINO."""
GATHER_FLAT = "gather_flat"
"""`QuantizeActivation` of vectors by `Gather`, for OpenVINO."""
BYTES = "_bytes"
"""Ending of either where the index fits a byte."""
PLAIN = "plain"
"""All operators, for clients that know little; those of opset `PLAIN_OPSET`."""
PLAIN_SPLIT = "plain_split"
PLAIN_SIGNED = "plain_signed"
"""The same of `SPLIT` and `SIGNED`."""

# --------------------------------------------------------------------------------------------------

_FILES = ("portable", "cpu", "cuda", "openvino", "plain")
_FUNCTION = re.compile(r"^(\w+).*?^\}", re.MULTILINE | re.DOTALL)


def operator_of(node: onnx.NodeProto) -> str:
    """Return the operator that a node is, whatever its body."""
    return node.op_type.partition("_")[0] if node.domain == DOMAIN else node.op_type


def body_of(node: onnx.NodeProto) -> str:
    """Return the name of an `apot` node's body, "" for the operator's usual one."""
    return node.op_type.partition("_")[2]


def function_name(operator: str, body: str = "") -> str:
    """Return the name of the function that computes an operator with a body."""
    return f"{operator}_{body}" if body else operator


def function(name: str, opset: int = OPSET) -> onnx.FunctionProto:
    """Return a function by its name, of the opset of its model."""
    header = f'<opset_import: ["" : {opset}], domain: "{DOMAIN}">'
    parsed: onnx.FunctionProto = parser.parse_function(header + _texts()[name])
    return parsed


@cache
def _texts() -> dict[str, str]:
    """Return the text of every function by name."""
    folder = resources.files(__package__) / "functions"
    texts = [(folder / f"{name}.onnxtxt").read_text(encoding="utf-8") for name in _FILES]
    return {found[1]: found[0] for found in _FUNCTION.finditer("\n".join(texts))}
