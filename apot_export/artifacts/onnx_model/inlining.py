"""Models without functions: the nodes of each body in place of the node that called it."""

from __future__ import annotations

import onnx
from onnx import helper


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal model of standard operators.

    Values of the graph keep their names. Those inside a body are named after the value that it
    computes, and a body's constants are initializers. What nothing reads is left out.

    Args:
        model: A model of `build_model`; it is not changed.
    """
    functions = {function.name: function for function in model.functions}
    flat = onnx.ModelProto()
    flat.CopyFrom(model)
    for field in (flat.functions, flat.graph.node, flat.graph.initializer, flat.opset_import):
        del field[:]
    flat.opset_import.extend(item for item in model.opset_import if not item.domain)
    flat.ir_version = helper.find_min_ir_version_for(list(flat.opset_import))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.domain:
            _inline(node, functions[node.op_type], flat.graph, tensors)
        else:
            flat.graph.node.append(node)
    read = {name for node in flat.graph.node for name in node.input}
    flat.graph.initializer.extend(tensor for name, tensor in tensors.items() if name in read)
    return flat


def _inline(
    call: onnx.NodeProto,
    function: onnx.FunctionProto,
    graph: onnx.GraphProto,
    tensors: dict[str, onnx.TensorProto],
) -> None:
    """Append a function's nodes for a call; its constants go into `tensors`."""
    given = {attribute.name: attribute for attribute in call.attribute}
    names = dict(zip([*function.input, *function.output], [*call.input, *call.output], strict=True))
    names[""] = ""  # an input that is left out
    for node in function.node:
        if node.op_type == "Constant":
            (output,), (value,) = node.output, node.attribute
            names[output] = f"{function.name}.{output}"
            tensors[names[output]] = value.t
            tensors[names[output]].name = names[output]
            continue
        names |= {name: f"{call.output[0]}.{name}" for name in node.output if name not in names}
        copy = graph.node.add()
        copy.CopyFrom(node)
        copy.input[:] = [names[name] for name in node.input]
        copy.output[:] = [names[name] for name in node.output]
        copy.name = copy.output[0]
        for attribute in copy.attribute:
            if attribute.ref_attr_name:
                name = attribute.name
                attribute.CopyFrom(given[attribute.ref_attr_name])
                attribute.name = name
