"""Looking into an ONNX model: every value of its graph as an output."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
from numpy.typing import NDArray
from onnx import TensorProto, helper

from apot_export import budgets
from apot_export.artifacts import strict_json
from apot_export.artifacts.onnx_model.blocks import without_blocks
from apot_export.artifacts.onnx_model.functions import operator_of
from apot_export.budgets import Budget
from apot_export.errors import ExportError
from apot_export.network import CodedNetwork
from apot_export.network.bounds import FLOAT32_EXACT
from apot_export.network.comparison import makes_integers

_DECODED_SUFFIXES = (".levels_of_weights", ".decoded_weights")
"""What the export calls the value of a layer's decoded weights: integers, or floats."""

_WITH_CODEBOOK = ("DecodeWeights", "QuantizeActivation")
_DECODERS = ("DecodeWeights", "DecodePlanes", "SumTerms")
_AS_LARGE_AS = {"Slice": 0, "Cast": 0, "Reshape": 0, "GatherElements": 1}
"""Operators whose result has no more numbers than one of their inputs, and which one."""
_BROADCASTS = ("Mul", "Sub")
"""Those whose result has no more than the product of the numbers of their inputs."""
_TOO_MANY = 1 << 62
GIVEN = ".given"
"""Ending of the inputs of `values_from`."""


def parse_model(data: bytes) -> onnx.ModelProto:
    """Parse a model: what it computes, without its loop over blocks of images (`in_blocks`).

    Raises:
        ExportError: The bytes are not an ONNX model, or it refers to other files.
    """
    try:
        model = onnx.load_model_from_string(data)
        outside = next(_tensors_outside(model), None)
        plain = without_blocks(model) if outside is None else model
    except Exception as error:
        raise ExportError(
            "The ONNX model cannot be parsed.", got=str(error), fix="convert again"
        ) from error
    if outside is not None:
        location = {entry.key: entry.value for entry in outside.external_data}.get("location", "")
        raise ExportError(
            "The ONNX model refers to another file, which no digest covers.",
            where=f"tensor {outside.name!r}",
            expected="all tensors within the model",
            got=repr(location),
            fix="convert again",
        )
    return plain


def _tensors_outside(message: Any) -> Iterator[TensorProto]:
    """Yield the tensors with data in other files, wherever in a model they are."""
    if isinstance(message, TensorProto):
        if message.external_data or message.data_location == TensorProto.EXTERNAL:
            yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors_outside(part)


def parse_modest_model(data: bytes, image: Sequence[int], where: str) -> onnx.ModelProto:
    """Parse a model whose values for one image are no larger than a file may ask for.

    With functions inlined, the extents of every value must follow from those of the image, as
    ONNX's shape inference finds them; what a model cuts to a size that it computes is as large as
    before. No size may depend on numbers of images or weights.

    Args:
        data: The model.
        image: Extents of an image, which the model may leave open: channels, height and width.
        where: The file, for messages.

    Raises:
        ExportError: The bytes are not such a model.
    """
    model = parse_model(data)
    try:
        flat = onnx.inliner.inline_local_functions(model)
        for value in flat.graph.input:
            for extent, given in zip(value.type.tensor_type.shape.dim, (1, *image), strict=False):
                if not extent.HasField("dim_value"):
                    extent.dim_value = given
        del flat.graph.value_info[:]  # what the file says of them
        for value in flat.graph.output:
            value.type.tensor_type.ClearField("shape")
        graph = onnx.shape_inference.infer_shapes(flat, data_prop=True).graph
    except Exception as error:
        raise ExportError(
            "The shapes of the ONNX model's values cannot be inferred.",
            where=where,
            got=(str(error) or type(error).__name__).splitlines()[0],
            fix="convert again",
        ) from error
    _require_modest(graph, Budget(len(data)), where)
    return model


def _require_modest(graph: onnx.GraphProto, budget: Budget, where: str) -> None:
    """Raise `ExportError` for a value that is too large, or may be."""
    values = (*graph.input, *graph.value_info, *graph.output)
    inferred = {value.name: _numbers(value.type.tensor_type) for value in values}
    most = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    made = [(name, node) for node in graph.node for name in node.output if name]
    for name, node in [*((value.name, None) for value in graph.input), *made]:
        numbers = inferred.get(name)
        if numbers is None and node is not None:
            numbers = _most_numbers(node, most)
        if numbers is None:
            raise ExportError(
                "The size of a value of the ONNX model does not follow from the image's.",
                where=f"{where}: {name}",
                expected="a model that apot-export wrote",
                got=f"a result of {node.op_type}" if node else "an input",
                fix="convert again",
            )
        budget.require(budgets.NUMBERS, numbers, f"{where}: {name}", ExportError)
        most[name] = numbers


def _numbers(kind: onnx.TypeProto.Tensor) -> int | None:
    """Return the numbers of a tensor, or as many as none may have; None where they are unknown."""
    numbers = 1
    for extent in kind.shape.dim:
        if not extent.HasField("dim_value") or extent.dim_value < 0:
            return None
        numbers = min(numbers * extent.dim_value, _TOO_MANY)
    return numbers if kind.HasField("shape") else None


def _most_numbers(node: onnx.NodeProto, most: Mapping[str, int]) -> int | None:
    """Return how many numbers a result of unknown extents has at most; None if that is unknown."""
    if node.op_type in _AS_LARGE_AS:
        return most.get(node.input[_AS_LARGE_AS[node.op_type]])
    if node.op_type not in _BROADCASTS or not most.keys() >= {*node.input}:
        return None
    return math.prod(most[name] for name in node.input)


def tf32_exact(model: onnx.ModelProto) -> bool:
    """Return whether a model's metadata say that TF32 rounds none of its factors."""
    facts = {entry.key: entry.value for entry in model.metadata_props}
    return facts.get("target") == "cuda" and facts.get("tf32_exact") == "true"


def takes_any_size(model: onnx.ModelProto) -> bool:
    """Return whether a model leaves the height and width of its images open."""
    sizes = model.graph.input[0].type.tensor_type.shape.dim[2:]
    return not all(size.HasField("dim_value") for size in sizes)


def with_outputs(model: onnx.ModelProto, names: Iterable[str] | None = None) -> bytes:
    """Return the model with values of its graph (all described ones unless named) as outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {output.name for output in copy.graph.output}
    wanted = None if names is None else set(names)
    for value in model.graph.value_info:
        if value.name not in present and (wanted is None or value.name in wanted):
            copy.graph.output.append(value)
    return bytes(copy.SerializeToString())


def values_from(model: onnx.ModelProto, sources: Mapping[str, str]) -> bytes:
    """Return a model of a few values of a graph, each computed from one other value.

    Args:
        model: Whose values they are. Its functions, tables and metadata are kept.
        sources: Name of the value that each is computed from, by name. It becomes an input, with
            `GIVEN` after its name; what else a value depends on are constants.

    Raises:
        ExportError: The model has no such values.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    described = {value.name: value for value in values}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes: dict[str, onnx.NodeProto] = {}
    for value, source in sources.items():
        missing = {value, source} - set(described)
        if missing:
            raise ExportError(
                "The ONNX model lacks values of the network.",
                got=", ".join(sorted(missing)),
                fix="convert the checkpoint again",
            )
        wanted = [makers[value]]
        while wanted:
            node = wanted.pop()
            if node.output[0] not in nodes:
                wanted += [makers[name] for name in node.input if name in makers and name != source]
                nodes[node.output[0]] = changed = onnx.NodeProto()
                changed.CopyFrom(node)
                changed.input[:] = [n + GIVEN if n == source else n for n in node.input]
    inputs = {source: onnx.ValueInfoProto() for source in sources.values()}
    for source, value_info in inputs.items():
        value_info.CopyFrom(described[source])
        value_info.name = source + GIVEN
    del copy.graph.node[:], copy.graph.input[:], copy.graph.output[:], copy.graph.value_info[:]
    order = [name for node in model.graph.node for name in node.output[:1]]
    copy.graph.node.extend(nodes[name] for name in order if name in nodes)
    copy.graph.input.extend(inputs.values())
    copy.graph.output.extend(described[value] for value in sources)
    return bytes(copy.SerializeToString())


def integers_as_such(
    network: CodedNetwork, values: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return the values of a network's model, levels and accumulators as integers.

    Levels may be float32 that holds integers; they become int32. Where one of them is not whole,
    all stay floats: integers of another kind than the oracle's differ from them all.
    """
    names = {node.name for node in network.nodes if makes_integers(network, node)}
    return {
        name: value.astype(np.int32) if name in names and _whole(value) else value
        for name, value in values.items()
    }


def _whole(value: NDArray[Any]) -> bool:
    return value.dtype == np.float32 and bool(
        ((value == np.trunc(value)) & (np.abs(value) < FLOAT32_EXACT)).all()
    )


def stored_weights(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """Return the weights, or levels, of layers that the model stores as float32, by layer."""
    endings = (".weight", *_DECODED_SUFFIXES)
    return {
        tensor.name.rpartition(".")[0]: onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name.endswith(endings)
    }


def stated_attributes(model: onnx.ModelProto) -> dict[str, dict[str, Any]]:
    """Return the attributes of weight decoders and quantizers, by the value they compute.

    No function's body reads them: they are for runtimes that implement the operators themselves.
    Models of target "plain" state them in their metadata.

    Raises:
        ValueError: The metadata are damaged.
    """
    facts = {entry.key: entry.value for entry in model.metadata_props}
    return {
        **strict_json.mapping("stated", strict_json.loads(facts.get("stated", "{}"))),
        **{
            node.output[0]: {item.name: helper.get_attribute_value(item) for item in node.attribute}
            for node in model.graph.node
            if operator_of(node) in _WITH_CODEBOOK
        },
    }


def decoder_model(model: onnx.ModelProto) -> bytes | None:
    """Return a model of the weight decoders alone, or None where nothing is decoded.

    Its outputs are the weights of every coded layer, integers or floats, named after their values.
    """
    decoders = [node for node in model.graph.node if node.op_type in _DECODERS]
    if not decoders:
        return None
    used = {name for node in decoders for name in node.input}
    tables = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    outputs = [
        # DecodeWeights looks levels up in its fifth input, so it returns that input's type.
        helper.make_tensor_value_info(
            node.output[0],
            tables[node.input[4]] if node.op_type == "DecodeWeights" else TensorProto.FLOAT,
            None,
        )
        for node in decoders
        if node.output[0].endswith(_DECODED_SUFFIXES)
    ]
    graph = helper.make_graph(
        decoders,
        "decoders",
        [],
        outputs,
        initializer=[tensor for tensor in model.graph.initializer if tensor.name in used],
    )
    reduced = helper.make_model(
        graph,
        functions=[function for function in model.functions if function.name in _DECODERS],
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
    )
    return bytes(reduced.SerializeToString())


def by_layer(decoded: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Rename the decoders' outputs to their layers."""
    return {name.rpartition(".")[0]: array for name, array in decoded.items()}


_POWER = ".2^"


def name_of_part(value: str, shift: int, *, alone: bool) -> str:
    """Return what an integer model calls a part of a value, times 2 ** shift."""
    return value if alone else f"{value}{_POWER}{shift}"


def whole_integers(values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.int64]]:
    """Return the values of an integer model as integers, their parts put together."""
    whole: dict[str, NDArray[np.int64]] = {}
    for name, part in values.items():
        value, _, shift = name.partition(_POWER)
        integers = part.astype(np.int64) << int(shift or 0)
        whole[value] = whole[value] + integers if value in whole else integers
    return whole
