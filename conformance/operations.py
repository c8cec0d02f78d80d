"""The valid files of the kit that show operations, versions and other ways to write a file."""

from __future__ import annotations

import json
from typing import Any

from conformance.files import Json, Maker, Packed
from conformance.storages import VALID
from conformance.valid import SMALL, image, valid

__all__ = ["VALID", "reference"]


@valid
def operations_of_version_2() -> Packed:
    """Every operation of version 2 that has no weights."""
    maker = Maker([2, 3, 4])
    maker.node("relu", "Relu")
    maker.node("clip", "Clip", "image", minimum=-0.5, maximum=0.75)
    maker.node("point", "Clip", "image", minimum=0.25, maximum=0.25)
    maker.node("scaled", "ScaleBias", "image", scale=maker.run([2, -1]), bias=0.25)
    maker.node("same", "ScaleBias", "image")
    maker.node("sum", "Add", "relu", "scaled")
    maker.node("twice", "Add", "clip", "clip")
    maker.node("joined", "Concat", "sum", "twice", "same")
    maker.node("one", "Concat", "point")
    maker.node("large", "Upsample", "sum", scale=[3, 2])
    maker.node("max", "MaxPool", "joined", kernel=[3, 2], stride=[2, 3], padding=[2, 1])
    maker.node("unpadded", "MaxPool", "large", kernel=[1, 4], stride=[5, 1])
    maker.node("mean", "AveragePool", "large", kernel=[2, 4], stride=[1, 2])
    maker.node("whole", "AveragePool", "image", kernel=[2, 4], stride=[7, 1])
    ends = ("max", "unpadded", "mean", "whole", "one")
    ends_flat = [maker.node(f"{name}.flat", "Flatten", name) for name in ends]
    maker.node("again", "Flatten", "whole.flat")
    maker.node("scaled.flat", "ScaleBias", scale=2)
    maker.node("relu.flat", "Relu")
    maker.node("global", "GlobalAveragePool", "mean")
    maker.node("global.flat", "Flatten")
    maker.node("all", "Concat", *ends_flat, "relu.flat", "global.flat")
    return maker.packed([image([2, 3, 4])])


@valid
def operations_of_version_3() -> Packed:
    """Every operation of version 3 whose results are exact, on values of 2, 4 and 5 axes."""
    maker = Maker([2, 3, 4])
    maker.node("channel", "Reduce", "image", function="max", axes=[2, 3])
    maker.node("row", "Reduce", "image", function="max", axes=[1, 3])
    maker.node("every", "Reduce", "image", function="mean", axes=[1, 3])
    maker.node("gated", "Multiply", "image", "channel")
    maker.node("spread", "Multiply", "channel", "row")
    maker.node("shifted", "Add", "row", "image")
    maker.node("both", "Add", "channel", "every")
    maker.node("absolute", "Elementwise", "image", function="abs")
    maker.node("cut", "Slice", "image", start=[0, 1, 0], stop=[2, 3, 4], step=[1, 1, 3])
    maker.node("last", "Slice", "image", start=[1, 2, 3], stop=[2, 3, 4], step=[9, 9, 9])
    maker.node("padded", "Pad", "cut", before=[0, 1, 0], after=[1, 0, 2])
    maker.node("valued", "Pad", "cut", before=[0, 0, 3], after=[0, 0, 0], value=-1.5)
    maker.node("edged", "Pad", "cut", before=[0, 2, 1], after=[0, 1, 3], value=None)
    maker.node("turned", "Transpose", "image", order=[3, 1, 2])
    maker.node("same", "Transpose", order=[1, 2, 3])
    maker.node("boxes", "Reshape", "image", shape=[2, 3, 2, 2])
    maker.node("boxes.turned", "Transpose", order=[4, 2, 1, 3])
    maker.node("boxes.max", "Reduce", function="max", axes=[1])
    maker.node("boxes.padded", "Pad", before=[0, 0, 1, 0], after=[0, 1, 0, 0], value=2)
    maker.node("boxes.bias", "ScaleBias", bias=0.5)
    maker.node("rows", "Concat", "image", "gated", axis=2)
    maker.node("columns", "Concat", "image", "gated", "shifted", axis=3)
    rows = maker.run([0.5, 0.5, 0, 0, 1, 0, 0, 0, 1, 0, 0.25, 0.75])
    maker.node("sampled", "Resample", "image", rows=rows, columns=maker.run([1, 0, 0, -1]))
    flat = [
        maker.node(f"{name}.flat", "Flatten", name)
        for name in (
            *("gated", "spread", "shifted", "both", "absolute", "last", "padded", "valued"),
            *("edged", "same", "boxes.bias", "rows", "columns", "sampled"),
        )
    ]
    maker.node("all", "Concat", *flat)
    maker.node("reshaped", "Slice", "all", start=[0], stop=[12], step=[1])
    maker.node("square", "Reshape", shape=[3, 4])
    maker.node("square.turned", "Transpose", order=[2, 1])
    maker.node("logits", "Reshape", shape=[12])
    return maker.packed([image([2, 3, 4])], "3")


@valid
def functions() -> Packed:
    """The functions of version 3, which readers compute to within rounding."""
    numbers = [0.0, 0.25, 1, -1, 2.5, -3, 0.001, 12, -12]
    maker = Maker([len(numbers), 1, 1])
    maker.node("positive", "Clip", minimum=0.5, maximum=100)
    everywhere, positive = ("sigmoid", "tanh", "exp", "erf", "abs"), ("log", "sqrt", "reciprocal")
    for name in everywhere:
        maker.node(name, "Elementwise", "image", function=name)
    for name in positive:
        maker.node(name, "Elementwise", "positive", function=name)
    maker.node("all", "Concat", *everywhere, *positive)
    return maker.packed([[[[number]] for number in numbers]], "3")


@valid
def several_outputs() -> Packed:
    """Further outputs, of which one is the input, and values that nothing reads."""
    maker = Maker([2, 1, 2])
    maker.node("relu", "Relu")
    maker.node("unused", "Flatten")
    maker.node("scaled", "ScaleBias", "relu", scale=2)
    maker.floats("unused layer", [1, 2, 1, 1], [1, 2])
    maker.network["further_outputs"] = ["image", "relu"]
    return maker.packed([image([2, 1, 2])], "3")


@valid
def shared_layers() -> Packed:
    """One layer and its quantizer used by several nodes, and a codebook that all share."""
    maker = Maker([2, 2, 2])
    activation = {"codebook": maker.book(SMALL), "alpha": 1.0}
    maker.coded("layer", [2, 2, 1, 1], SMALL, [1, 5, 2, 7], activation=activation)
    for number in range(2):
        maker.node(f"levels{number}", "QuantizeActivation", layer="layer")
        maker.node(f"sums{number}", "Convolution", layer="layer")
        maker.node(f"scaled{number}", "ScaleBias", scale=0.125)
    maker.node("other sums", "Convolution", "levels0", layer="layer", padding=[1, 0])
    maker.node("other", "ScaleBias", bias=-1)
    return maker.packed([image([2, 2, 2])])


# --- other ways to write a file (1.2, 6) ----------------------------------------------------------


def reference() -> Packed:
    """Return the parts of a small file with a layer of every kind."""
    maker = Maker([2, 3, 3])
    activation = {"codebook": maker.book(SMALL), "alpha": 1.5}
    maker.floats("first", [2, 2, 2, 2], [(place % 5 - 2) / 4 for place in range(16)])
    maker.node("first", "Convolution", layer="first", padding=[1, 1])
    codes = [place * 3 % 8 for place in range(30)]
    maker.coded("second", [3, 2, 1, 1], SMALL, codes[:6], activation=activation)
    maker.node("second.levels", "QuantizeActivation", layer="second")
    maker.node("second.sums", "Convolution", layer="second")
    maker.node("second", "ScaleBias", scale=maker.run([0.5, 1, -0.25]), bias=maker.run([0, 1, 2]))
    planes = {"kind": "planes", "shape": [1, 3, 1, 1], "group_size": 3}
    maker.network["layers"]["third"] = {**planes, "coordinates": maker.run([0.5, 0.25])}
    maker.octets("third.planes", bytes([2, 0b101110 & 0x3F]))
    maker.node("third", "Convolution", layer="third")
    maker.node("pool", "MaxPool", kernel=[2, 2], stride=[2, 2], padding=[1, 0])
    maker.node("flat", "Flatten")
    maker.coded("fourth", [5, 6], SMALL, codes)
    maker.node("logits", "Linear", layer="fourth")
    return maker.packed([image([2, 3, 3])])


class _Rewritten(Packed):
    """A file whose header is changed before it is sealed."""

    def header(self) -> tuple[Json, bytes]:
        """Return the header in another order, with members that a reader ignores."""
        header, data = super().header()
        metadata = header.pop("__metadata__")
        checksum = metadata.pop("header_crc32")
        metadata = dict(reversed(metadata.items()))
        metadata["network"] = json.dumps(_reversed(self.network), indent=1)
        metadata["a note"] = "ignored"
        first = {"__metadata__": {"header_crc32": checksum, **metadata}}
        return {**first, **_reversed(header)}, data


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _reversed(value[name]) for name in reversed(value)}
    return [_reversed(item) for item in value] if isinstance(value, list) else value


@valid
def member_order() -> Packed:
    """All members and tensors in reverse, blanks in JSON, and metadata that readers ignore."""
    parts = reference()
    return _Rewritten(**vars(parts))


@valid
def tensor_order() -> Packed:
    """Tensors in another order than the writer's, `U8` before `F32`, with padding between."""
    parts = reference()
    parts.tensors = dict(reversed(parts.tensors.items()))
    return parts


@valid
def defaults_stated() -> Packed:
    """Optional members that have their default values."""
    parts = reference()
    parts.network["further_outputs"] = []
    defaults: Json = {
        "Convolution": {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1},
        "MaxPool": {"padding": [0, 0]},
        "ScaleBias": {"scale": 1, "bias": 0},
    }
    for layer in parts.network["layers"].values():
        if layer["kind"] == "planes":
            layer.update(count_bits=3, position_major=False, terms=0)
        if layer["kind"] == "coded":
            layer.update({"alpha": None, "activation": None, "storage": None} | layer)
    before = "image"
    for node in parts.network["nodes"]:
        node.update({"inputs": [before]} | defaults.get(node["operation"], {}) | node)
        before = node["name"]
    return parts


@valid
def version_1() -> Packed:
    """A file of version 1, which states no runs."""
    parts = reference()
    parts.version = "1"
    for layer in parts.network["layers"].values():
        layer.pop("values", None)
        layer.pop("coordinates", None)
    order = ["second", "third", "fourth"]  # of the runs, which the layers must have, too
    layers = parts.network["layers"]
    parts.network["layers"] = {name: layers[name] for name in ("first", *order)}
    numbers = parts.tensors["parameters"]
    runs = [(0, 8), (14, 16), (16, 24), (8, 11), (11, 14)]  # layers first, then nodes
    content = b"".join(numbers.content[4 * begin : 4 * end] for begin, end in runs)
    numbers.content = content
    for node in parts.network["nodes"]:
        for part in ("scale", "bias"):
            if part in node:
                node[part] = [3]
    return parts
