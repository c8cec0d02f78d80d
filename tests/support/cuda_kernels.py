"""Which nodes of a model ONNX Runtime's CUDA provider computes, by the table of its kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx
import onnxruntime
from onnx import TensorProto, defs, shape_inference

TABLE = Path(__file__).with_suffix(".tsv")
_INTEGERS = ("int", "uint")


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One row of the table."""

    first: int
    last: int | None
    types: dict[str, frozenset[str]]
    """Types that it takes, by type variable, or by input where the schema fixes its type."""

    def fits(self, opset: int, types: dict[str, str]) -> bool:
        """Return whether it computes an operator that is as of `opset`, with these types."""
        inside = self.first <= opset and (self.last is None or opset <= self.last)
        return inside and all(
            types[name] in taken for name, taken in self.types.items() if name in types
        )


@cache
def kernels() -> dict[str, list[Kernel]]:
    """Return the kernels of every operator in the table."""
    found: dict[str, list[Kernel]] = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        operator, first, last, variables = line.split("\t")
        pairs = [variable.split(": ") for variable in variables.split("; ")]
        kernel = Kernel(
            first=int(first),
            last=int(last) if last else None,
            types={name: frozenset(taken.split(", ")) for name, taken in pairs},
        )
        found.setdefault(operator, []).append(kernel)
    return found


def folded(model: bytes, folder: Path) -> onnx.ModelProto:
    """Return a model as ONNX Runtime leaves it before it gives nodes to providers.

    Its functions are inlined and what depends on constants alone is computed.
    """
    path = folder / "folded.onnx"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns that the model depends on this machine
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True)


def without_kernel(model: onnx.ModelProto) -> set[str]:
    """Return the kinds of nodes, as "Pad uint8", that CUDA does not compute."""
    return {
        described
        for described, node, opset, types in _nodes(model)
        if not any(kernel.fits(opset, types) for kernel in kernels().get(node.op_type, []))
    }


def rounded(model: onnx.ModelProto) -> set[str]:
    """Return the kinds of nodes whose integers CUDA computes in float32.

    ONNX Runtime casts integers to float32 for cuDNN's reductions: see reduction_ops.cc of its CUDA
    provider.
    """
    return {
        described
        for described, node, _, types in _nodes(model)
        if node.op_type.startswith("Reduce") and types["T"].startswith(_INTEGERS)
    }


def _nodes(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.NodeProto, int, dict[str, str]]]:
    """Yield every node: its description, itself, its schema's opset and its types by variable."""
    described = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        described[value.name] = value.type.tensor_type.elem_type
    imported = {entry.domain: entry.version for entry in model.opset_import}
    for node in model.graph.node:
        assert node.domain in ("", "ai.onnx"), f"{node.op_type} of {node.domain}"
        schema = defs.get_schema(node.op_type, imported[""])
        types = {}
        for formal, names in ((schema.inputs, node.input), (schema.outputs, node.output)):
            for position, name in enumerate(names):
                if name:
                    parameter = formal[min(position, len(formal) - 1)]
                    types[parameter.type_str] = types[parameter.name] = _type(described[name])
        first = _type(described[node.input[0]]) if node.input else ""
        yield f"{node.op_type} {first}".rstrip(), node, schema.since_version, types


def _type(number: int) -> str:
    return str(TensorProto.DataType.Name(number)).lower()
