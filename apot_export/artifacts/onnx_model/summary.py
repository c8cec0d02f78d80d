"""What an ONNX model says of itself: versions, interface, operators, bytes of its constants."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx

from apot_export.artifacts.onnx_model.probe import parse_model
from apot_export.errors import ExportError


def summary(path: Path) -> dict[str, Any]:
    """Describe any ONNX model whose tensors are in its file.

    Returns:
        "inputs" and "outputs" (name, type, shape without the batch; "?" where it is open),
        "producer", "ir_version", "opsets" by domain, "nodes" by operator, "functions",
        "constant_bytes", and "metadata".

    Raises:
        ExportError: The file is no such model.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ExportError(
            "The ONNX model cannot be read.", where=str(path), got=error.strerror
        ) from error
    model = parse_model(data)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    return {
        "inputs": [_value(one) for one in graph.input if one.name not in constants],
        "outputs": [_value(one) for one in graph.output],
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "ir_version": model.ir_version,
        "opsets": {one.domain or "ai.onnx": one.version for one in model.opset_import},
        "nodes": dict(Counter(_operator(node) for node in graph.node).most_common()),
        "functions": len(model.functions),
        "constant_bytes": sum(tensor.ByteSize() for tensor in graph.initializer),
        "metadata": {entry.key: entry.value for entry in model.metadata_props},
    }


def _operator(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _value(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    kinds = onnx.TensorProto.DataType
    extents = [extent.dim_value or "?" for extent in tensor.shape.dim]
    known = tensor.elem_type in kinds.values()
    kind = kinds.Name(tensor.elem_type).lower() if known else "unknown"
    return {
        "name": value.name,
        "type": "float32" if kind == "float" else kind,
        "shape": extents[1:],
    }
