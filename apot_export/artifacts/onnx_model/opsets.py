"""The operator sets that a model can be written in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, defs, shape_inference

from apot_export.artifacts.onnx_model.functions import OPSET, PLAIN_OPSET
from apot_export.artifacts.onnx_model.inlining import inlined
from apot_export.errors import TargetError

OLDEST = 11
"""The first one with `Round`. Since then no operator of ours changed its meaning but not its
signature."""


def opset_of(stated: int = 0, *, plain: bool) -> int:
    """Return the operator set to write a model in: the stated one, or the usual one for 0.

    Raises:
        TargetError: No model is written in the stated one.
    """
    own = PLAIN_OPSET if plain else OPSET
    if stated and not OLDEST <= stated <= own:
        raise TargetError(
            "No model for this target is written in this operator set.",
            expected=f"--opset {OLDEST} to {own}, as far as the network's operators allow",
            got=f"--opset {stated}{' with --target plain' * plain}",
            fix=f"leave out --opset for operator set {own}",
        )
    return stated or own


def require_opset(model: onnx.ModelProto, stated: int, *, plain: bool) -> None:
    """Raise `TargetError` where a model needs a newer operator set than was stated; 0: none was."""
    if not stated:
        return
    lowest, operator = lowest_opset(model)
    if lowest > stated:
        instead = "" if plain else ", or take --target plain, which needs less"
        raise TargetError(
            f"Operator set {stated} has no {operator} as this model uses it.",
            where=model.graph.name,
            expected=f"--opset {lowest} or more",
            got=f"--opset {stated}",
            fix=f"state --opset {lowest}{instead}",
        )


def lowest_opset(model: onnx.ModelProto) -> tuple[int, str]:
    """Return the oldest operator set that has all operators of a model, and one that needs it.

    It has an operator where its definition takes the inputs, their types and the attributes of
    every node, and means the same by attributes that are left out.
    """
    flat = inlined(model)
    flat.opset_import[0].version = OPSET  # types are inferred with all operators
    flat = shape_inference.infer_shapes(flat)
    types = {tensor.name: tensor.data_type for tensor in flat.graph.initializer}
    for value in (*flat.graph.input, *flat.graph.value_info, *flat.graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    needs = {(_lowest(node, types), node.op_type) for node in flat.graph.node}
    return max(needs, default=(OLDEST, ""))


def _lowest(node: onnx.NodeProto, types: Mapping[str, int]) -> int:
    """Return the oldest operator set that has a node's operator as the node uses it."""
    newest = defs.get_schema(node.op_type, OPSET)
    for opset in range(OLDEST, OPSET):
        if defs.has(node.op_type, opset):
            schema = defs.get_schema(node.op_type, opset)
            if (
                _takes(schema.inputs, node.input, types)
                and _takes(schema.outputs, node.output, types)
                and _means_the_same(schema, newest, node)
            ):
                return opset
    return OPSET


def _takes(
    parameters: Sequence[defs.OpSchema.FormalParameter],
    values: Sequence[str],
    types: Mapping[str, int],
) -> bool:
    """Tell whether values of these types can be the parameters of an operator."""
    options = defs.OpSchema.FormalParameterOption
    variadic = bool(parameters) and parameters[-1].option == options.Variadic
    if len(values) > len(parameters) and not variadic:
        return False
    for index, parameter in enumerate(parameters):
        given = (
            values[index:] if parameter.option == options.Variadic else values[index : index + 1]
        )
        names = [name for name in given if name]
        if not names and parameter.option != options.Optional:
            return False
        if not {_type(types.get(name, 0)) for name in names} <= set(parameter.types):
            return False
    return True


def _type(number: int) -> str:
    return f"tensor({TensorProto.DataType.Name(number).lower()})"


def _means_the_same(schema: defs.OpSchema, newest: defs.OpSchema, node: onnx.NodeProto) -> bool:
    """Tell whether a node's attributes, and those that it leaves out, are the same in both."""
    given = {attribute.name for attribute in node.attribute}
    shared = schema.attributes.keys() & newest.attributes.keys() - given
    return given <= schema.attributes.keys() and all(
        schema.attributes[name].default_value == newest.attributes[name].default_value
        for name in shared
    )
