"""The invalid files of the kit: operations (4.2 to 4.4).

Every file breaks one rule of section 5 of FORMAT.md, and keeps all others as far as can be.
"""

from __future__ import annotations

from typing import Any

from conformance.breaking import (
    CLIP,
    FUNCTION,
    MAX,
    MEAN,
    PAD,
    REDUCE,
    RELU,
    SLICE,
    UPSAMPLE,
    broken,
    floats,
    nodes,
    resampled,
    turned,
)
from conformance.files import Json, Maker, Packed
from conformance.invalid_graphs import INVALID

__all__ = ["INVALID"]


def _products() -> None:
    def convolved(shape: list[int], image: list[int], **attributes: Any) -> Packed:
        maker = Maker(image)
        count = 1
        for extent in shape:
            count *= extent
        maker.floats("f", shape, [1] * count)
        maker.node("out", "Convolution", layer="f", **attributes)
        return maker.packed([])

    broken("O1", "one channel too many", convolved([1, 2, 1, 1], [3, 2, 2]))
    broken("O1", "channels of one group of two", convolved([2, 2, 1, 1], [2, 2, 2], groups=2))
    broken("O1", "a matrix", convolved([2, 2], [2, 2, 2]))
    flat = convolved([1, 2, 1, 1], [2, 1, 1])
    flat.network["nodes"].insert(0, {"name": "flat", "operation": "Flatten"})
    broken("O1", "an input of one axis", flat)
    broken("O2", "three outputs of two groups", convolved([3, 1, 1, 1], [2, 2, 2], groups=2))
    for problem, image in (("an image", [2, 1, 1]), ("another length", [3, 1, 1])):
        maker = Maker(image)
        maker.floats("f", [1, 2], [1, 2])
        if image[0] == 3:
            maker.node("flat", "Flatten")
        maker.node("out", "Linear", layer="f")
        broken("O3", f"a matrix of {problem}", maker.packed([]))
    kernel = floats()
    kernel.network["nodes"] = [
        {"name": "flat", "operation": "Flatten"},
        {"name": "sums", "operation": "Linear", "layer": "f"},
        *kernel.network["nodes"][1:],
    ]
    broken("O3", "a kernel", kernel)
    broken("O4", "a kernel larger than its image", convolved([1, 1, 3, 1], [1, 2, 2]))
    broken("O4", "a dilated kernel", convolved([1, 1, 2, 1], [1, 2, 2], dilation=[2, 1]))
    broken("O4", "a window larger than its image", nodes({**MAX, "kernel": [5, 1]}))
    broken("O4", "a mean larger than its image", nodes({**MEAN, "kernel": [1, 5]}))


def _without_weights() -> None:
    for padding in ([2, 0], [0, 2]):
        problem = f"a padding of {padding[0]} and {padding[1]}"
        broken("O5", problem, nodes({**MAX, "padding": padding}))
    flatten: Json = {"operation": "Flatten"}
    for node in (MAX, MEAN, UPSAMPLE, {"operation": "GlobalAveragePool"}):
        broken("O6", f"{node['operation']} of one axis", nodes(flatten, node))
    broken("O7", "a minimum above the maximum", nodes({**CLIP, "minimum": 2}))
    for part in ("scale", "bias"):
        broken("O8", f"a {part} of 1e39", nodes({"operation": "ScaleBias", part: 1e39}))
    pooled = {**MEAN, "stride": [2, 2]}
    both = {"operation": "Add", "inputs": ["image", "out0"]}
    broken("O9", "Add of two shapes", nodes(pooled, both, version="3"))
    product = {**both, "operation": "Multiply"}
    broken("O9", "Multiply of two shapes", nodes(pooled, product, version="3"))
    broken("O9", "Add of 1 and 3 axes", nodes(flatten, both, image=(1, 1, 1), version="3"))
    joined = {**both, "operation": "Concat"}
    broken("O10", "Concat of other rows", nodes(pooled, joined))
    broken("O10", "Concat of 1 and 3 axes", nodes(flatten, joined, image=(1, 1, 1)))
    beyond = {"operation": "Concat", "inputs": ["image"], "axis": 4}
    broken("O10", "Concat of a fourth axis", nodes(beyond, version="3"))


def _of_version_3() -> None:
    def refused(rule: str, problem: str, node: Json) -> None:
        broken(rule, problem, nodes(node, version="3"))

    for function in ("relu", "__proto__"):
        refused("O11", f"Elementwise of {function}", {**FUNCTION, "function": function})
    refused("O11", "Reduce of sums", {**REDUCE, "function": "sum"})
    refused("O12", "Reduce of a fourth axis", {**REDUCE, "axes": [4]})
    refused("O12", "Reduce of an axis twice", {**REDUCE, "axes": [2, 2]})
    refused("O13", "Slice of two axes", {**SLICE, "start": [0, 0], "stop": [2, 4], "step": [1, 1]})
    refused("O13", "Slice of two steps", {**SLICE, "step": [1, 1]})
    refused("O13", "Slice behind the end", {**SLICE, "stop": [2, 5, 4]})
    refused("O13", "Slice of nothing", {**SLICE, "start": [0, 4, 0]})
    refused("O13", "Slice that falls", {**SLICE, "start": [0, 2, 0], "stop": [2, 1, 4]})
    refused("O14", "Pad of two axes", {**PAD, "before": [0, 0], "after": [0, 1]})
    refused("O14", "Pad of two afters", {**PAD, "after": [0, 1]})
    refused("O14", "Pad of four axes", {**PAD, "before": [0] * 4, "after": [0] * 4})
    refused("O15", "Reshape of other numbers", {"operation": "Reshape", "shape": [2, 15]})
    refused("O16", "Transpose of two axes", turned([2, 1]))
    refused("O16", "Transpose of an axis twice", turned([1, 2, 2]))
    refused("O16", "Transpose of a fourth axis", turned([1, 2, 4]))
    for rows, columns in ((3, 4), (4, 3), (0, 4)):
        parts = resampled([1] * rows, [1] * columns, "3", size=4)
        broken("O17", f"Resample of {rows} and {columns} numbers", parts)
    flat = resampled([1], [1], "3")
    flat.network["nodes"].insert(0, {"name": "flat", "operation": "Flatten"})
    broken("O17", "Resample of one axis", flat)
    large: Json = {"operation": "Upsample", "scale": [1 << 15, 1 << 15]}
    broken("O18", "2^31 numbers", nodes(large, image=(2, 1, 1)))
    broken("O18", "an input of 2^31 numbers", nodes(RELU, image=(2, 1 << 15, 1 << 15)))


for _part in (_products, _without_weights, _of_version_3):
    _part()
