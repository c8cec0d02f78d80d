"""The invalid files of the kit: members, runs, graphs and operations.

Every file breaks one rule of section 5 of FORMAT.md, and keeps all others as far as can be.
"""

from __future__ import annotations

from typing import Any

from conformance.breaking import (
    ABSENT,
    CLIP,
    FUNCTION,
    MAX,
    PAD,
    REDUCE,
    RELU,
    RESAMPLE,
    RESHAPE,
    SLICE,
    broken,
    coded,
    described,
    edited,
    floats,
    nodes,
    planes,
    quantized,
    resampled,
    turned,
)
from conformance.files import Json, Maker, Packed, Tensor, f32, pack
from conformance.invalid_layers import INVALID
from conformance.valid import SMALL, uniform

__all__ = ["INVALID"]

LARGE = 1 << 31


# --- members (2) ----------------------------------------------------------------------------------


def _digits() -> Packed:
    storage = {"digits": [0, 1, 3]}
    return coded(uniform(1, signed=True), bytes([75, 1]), 6, storage=storage)


def _planes(**members: Any) -> Packed:
    return planes(pack([2, 1], 3) + pack([1, 0, 1, 1, 0, 0], 1), **members)


def _objects() -> dict[str, tuple[Packed, str, str]]:
    """Return every kind of object: a file with it, where it is, and a member that it must have."""
    clip: Json = {"operation": "Clip", "minimum": 0, "maximum": 1}
    return {
        "input": (quantized(), "input", "shape"),
        "codebook": (quantized(), "codebooks.0", "signed"),
        "coded layer": (quantized(), "layers.q", "step"),
        "float layer": (floats(), "layers.f", "kind"),
        "multi-bit layer": (_planes(), "layers.p", "group_size"),
        "activation": (quantized(), "layers.q.activation", "alpha"),
        "node": (nodes(clip), "nodes.0", "maximum"),
    }


def _members() -> None:
    for name in ("input", "output", "codebooks", "layers", "nodes"):
        broken("N1", f"no {name}", edited(quantized(), (name, ABSENT)))
    for name, (parts, path, member) in _objects().items():
        broken("N1", f"a {name} without {member}", edited(parts, (f"{path}.{member}", ABSENT)))
        broken("N2", f"a {name} with a note", edited(parts, (f"{path}.note", "")))
        if name in {"input", "multi-bit layer", "activation", "node"}:
            broken("N3", f"a {name} that is an array", edited(parts, (path, [])))
    for name in ("name", "operation"):
        broken("N1", f"a node without its {name}", edited(nodes(RELU), (f"nodes.0.{name}", ABSENT)))
    broken("N1", "no values", edited(quantized(), ("layers.q.values", ABSENT)))
    broken("N2", "a note of network", edited(quantized(), ("note", "")))
    broken("N2", "a Relu with a layer", edited(nodes(RELU), ("nodes.0.layer", "")))
    wrong: list[tuple[str, Packed, str, Any]] = [
        ("codebooks as an object", quantized(), "codebooks", {}),
        ("an image of two extents", floats(), "input.shape", [2, 1]),
        ("an order as a number", _planes(position_major=0), "output", "out"),
        ("a step as text", quantized(), "layers.q.step", "0.5"),
        ("inputs as text", nodes(RELU), "nodes.0.inputs", "image"),
        ("a stride of three numbers", floats(), "nodes.0.stride", [1, 1, 1]),
        ("a stride that is null", floats(), "nodes.0.stride", None),
        ("a maximum as null", nodes(CLIP), "nodes.0.maximum", None),
        ("a scale as text", floats(), "nodes.1.scale", "1"),
        ("a function as a number", nodes(FUNCTION, version="3"), "nodes.0.function", 1),
        ("33 axes", nodes(REDUCE, version="3"), "nodes.0.axes", [*range(1, 34)]),
        ("rows as a number", nodes(RESAMPLE, version="3"), "nodes.0.rows", 1),
    ]
    for problem, parts, path, value in wrong:
        broken("N3", problem, edited(parts, (path, value)))
    broken("N3", "network is text", _whole('"network"'))
    broken("N3", "network is null", _whole("null"))


def _whole(text: str) -> bytes:
    parts = quantized()
    header, _ = parts.header()
    return described(parts, header["__metadata__"]["network"], text)


def _numbers() -> None:
    integers: list[tuple[str, Packed, str, Any]] = [
        ("an image of 2^31 rows", floats(), "input.shape", [2, LARGE, 1]),
        ("a denominator of 4.0", quantized(), "codebooks.0.denominator", 4.0),
        ("counts of 0 bits", _planes(count_bits=0), "output", "out"),
        ("counts of 9 bits", _planes(count_bits=9), "output", "out"),
        ("a stride of 0", floats(), "nodes.0.stride", [0, 1]),
        ("a stride of 1.0", floats(), "nodes.0.stride", [1.0, 1]),
        ("a padding of -1", floats(), "nodes.0.padding", [-1, 0]),
        ("a kernel of 0", nodes({**MAX, "kernel": [0, 2]}), "output", "out0"),
        ("axis 0", nodes({"operation": "Concat", "axis": 0}, version="3"), "output", "out0"),
        ("a reduced batch", nodes({**REDUCE, "axes": [0]}, version="3"), "output", "out0"),
        ("a step of 0", nodes({**SLICE, "step": [1, 0, 1]}, version="3"), "output", "out0"),
        ("a shape of -1", nodes(RESHAPE, version="3"), "nodes.0.shape", [-1]),
    ]  # fmt: skip
    storages = {
        "entropy of 2^31 lanes": {"entropy": [4, LARGE]},
        "a digit of -1": {"digits": [-1, 1, 3]},
    }
    integers += [
        (problem, _digits(), "layers.c.storage", storage) for problem, storage in storages.items()
    ]
    for problem, parts, path, value in integers:
        broken("N4", problem, edited(parts, (path, value)))
    numbers: list[tuple[str, Packed, str]] = [
        ("a step", quantized(), '"step":0.5'),
        ("a threshold", quantized(), '"alpha":1.5'),
        ("a maximum", nodes(CLIP), '"maximum":1'),
    ]
    for problem, parts, old in numbers:
        name = old.split(":")[0]
        broken("N5", f"{problem} of 1e999", described(parts, old, f"{name}:1e999"))
    huge = "1" + "0" * 400
    broken("N5", "a maximum of 10^400", described(nodes(CLIP), '"maximum":1', f'"maximum":{huge}'))


# --- versions (6) ---------------------------------------------------------------------------------


def _versions() -> None:
    for node in (
        FUNCTION,
        REDUCE,
        PAD,
        SLICE,
        turned([2, 1, 3]),
        RESHAPE,
        {"operation": "Multiply", "inputs": ["image", "image"]},
    ):
        broken("V1", f"{node['operation']} in version 2", nodes(node))
    joined = {"operation": "Concat", "inputs": ["image", "image"], "axis": 2}
    broken("V1", "Concat of rows in version 2", nodes(joined))
    pooled = {"operation": "GlobalAveragePool"}
    added = {"operation": "Add", "inputs": ["image", "out0"]}
    broken("V1", "Add of two shapes in version 2", nodes(pooled, added))
    more = edited(nodes(RELU), ("further_outputs", ["image"]))
    broken("V1", "two outputs in version 2", more)
    broken("V1", "Resample in version 2", resampled([1, 0], [1], "2"))
    scaled = quantized()
    scaled.network["layers"]["q"]["scales"] = [8, 12]
    numbers = scaled.tensors["parameters"]
    numbers.content, numbers.shape = numbers.content + f32(1, 2, 3, 4), [12]
    broken("V1", "scales of outputs in version 2", scaled)
    old = floats()
    old.version = "1"
    broken("V2", "a run of version 2", old)
    old = quantized()
    old.version = "1"
    broken("V2", "values of version 2", old)
    old = edited(floats(), ("nodes.1.scale", [2]), ("nodes.1.bias", [1]))
    old.version = "1"
    broken("R3", "a number of no run in version 1", old)


# --- runs (2.4) -----------------------------------------------------------------------------------


def _runs() -> None:
    for problem, scale, bias in (
        ("beyond the end", [0, 2], [2, 5]),
        ("falling", [0, 2], [4, 2]),
    ):
        changed = edited(floats(), ("nodes.1.scale", scale), ("nodes.1.bias", bias))
        broken("R1", f"a run {problem}", changed)
    for length in (1, 3):
        changed = edited(floats(), ("nodes.1.bias", [2, 3, 4][:length]))
        broken("N3", f"a run of {length} numbers", changed)
    bytes_alone = floats()
    tensor = bytes_alone.tensors["parameters"]
    tensor.dtype, tensor.shape = "U8", [16]
    broken("R1", "parameters are U8", bytes_alone)
    square = floats()
    square.tensors["parameters"].shape = [2, 2]
    broken("R1", "parameters of two axes", square)
    gone = floats()
    del gone.tensors["parameters"]
    broken("R1", "no parameters", gone)
    broken("R2", "values of 7 of 8 codes", edited(quantized(), ("layers.q.values", [0, 7])))
    single = Maker([2, 1, 1])
    single.node("out", "ScaleBias", bias=single.run([1]))
    broken("R2", "a bias of one channel of two", single.packed([]))
    one = edited(floats(), ("nodes.1.scale", [0, 1]), ("nodes.1.bias", [1, 4]))
    broken("R2", "a scale of one channel and a bias of three", one)
    broken(
        "R2",
        "coordinates of two of three bases",
        edited(_planes(), ("layers.p.coordinates", [0, 2])),
    )
    broken("R3", "an overlap", edited(floats(), ("nodes.1.bias", [1, 3])))
    broken("R3", "the same run twice", edited(floats(), ("nodes.1.bias", [0, 2])))
    broken("R3", "numbers left out", edited(floats(), ("nodes.1.bias", 0)))
    maker = Maker([1, 1, 1])
    maker.node("out", "ScaleBias", scale=[1, 2])
    maker.run([1, 2])
    broken("R3", "the first number left out", maker.packed([]))


# --- graphs (2.4, 4.1) ----------------------------------------------------------------------------


def _graphs() -> None:
    relu = nodes(RELU, RELU)
    for name in ("Softmax", "relu", "__proto__"):
        broken("G1", f"an operation called {name}", edited(relu, ("nodes.0.operation", name)))
    broken("G2", "a node called as the input", edited(relu, ("nodes.0.name", "image")))
    broken("G2", "two nodes of one name", edited(relu, ("nodes.1.name", "out0")))
    broken("G3", "a value of a later node", edited(relu, ("nodes.0.inputs", ["out1"])))
    broken("G3", "a node that reads itself", edited(relu, ("nodes.0.inputs", ["out0"])))
    broken("G3", "a value of no node", edited(relu, ("nodes.1.inputs", ["nowhere"])))
    broken("G4", "an output of no node", edited(relu, ("output", "nowhere")))
    three = nodes(RELU, version="3")
    broken("G4", "a further output of no node", edited(three, ("further_outputs", ["nowhere"])))
    for operation, inputs in (
        ("Relu", ["image", "image"]),
        ("Relu", []),
        ("Add", ["image"]),
        ("Add", ["image"] * 3),
        ("Concat", []),
    ):
        node = {"operation": operation, "inputs": inputs}
        broken("G5", f"{operation} of {len(inputs)}", nodes(node))
    product = {"operation": "Multiply", "inputs": ["image"]}
    broken("G5", "Multiply of 1", nodes(product, version="3"))
    broken("G7", "a layer that is not there", edited(floats(), ("nodes.0.layer", "g")))
    broken("G7", "a layer called __proto__", edited(floats(), ("nodes.0.layer", "__proto__")))
    levels = edited(floats(), ("nodes.0.operation", "QuantizeActivation"))
    broken("G8", "levels of a float layer", levels)
    plain = coded(SMALL, pack([1, 2], 3), 2)
    levels = edited(plain, ("nodes.1.operation", "QuantizeActivation"))
    broken("G8", "levels of a layer without activation", levels)


def _kinds() -> None:
    def added(operation: str, *inputs: str, **attributes: Any) -> Packed:
        parts = quantized()
        node = {"name": "more", "operation": operation, "inputs": list(inputs), **attributes}
        parts.network["nodes"].append(node)
        return parts

    broken("G6", "Relu of levels", added("Relu", "levels"))
    broken("G6", "Relu of accumulators", added("Relu", "sums"))
    broken("G6", "ScaleBias of levels", added("ScaleBias", "levels"))
    broken("G6", "Add of accumulators and floats", added("Add", "sums", "out"))
    broken("G6", "a quantized layer of floats", added("Convolution", "image", layer="q"))
    other = added("Convolution", "levels", layer="r")
    other.network["layers"]["r"] = {"kind": "float"}
    other.tensors["r.weight"] = Tensor("F32", [1, 3, 1, 1], f32(1, 2, 3))
    other.tensors = {name: other.tensors[name] for name in ("parameters", "r.weight", "q.codes")}
    broken("G6", "a float layer of levels", other)
    other = added("Convolution", "levels", layer="r")
    other.network["layers"]["r"] = {**other.network["layers"]["q"], "values": [8, 16]}
    other.tensors["r.codes"] = other.tensors["q.codes"]
    numbers = other.tensors["parameters"]
    numbers.content, numbers.shape = numbers.content * 2, [16]
    broken("G6", "levels of another layer", other)
    broken("G6", "an output of levels", edited(quantized(), ("output", "levels")))
    broken("G6", "an output of accumulators", edited(quantized(), ("output", "sums")))
    further = edited(quantized(), ("further_outputs", ["sums"]))
    further.version = "3"
    broken("G6", "a further output of accumulators", further)


for _part in (_members, _numbers, _versions, _runs, _graphs, _kinds):
    _part()
