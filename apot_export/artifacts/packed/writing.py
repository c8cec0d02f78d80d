"""Write packed files: a coded network as JSON over named tensors (FORMAT.md, section 2)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts import strict_json
from apot_export.artifacts.packed import _digits, _rans
from apot_export.artifacts.packed._container import FORMAT_VERSION, positions, write
from apot_export.artifacts.packed._read_layers import (
    DIGITS,
    ENTROPY,
    INTEGER,
    NEUTRAL,
    PARAMETERS,
    USUAL_COUNT_BITS,
    is_of_version_3,
)
from apot_export.errors import IntegerError
from apot_export.integer import IntegerNetwork
from apot_export.integer.program import program_bytes
from apot_export.network import (
    ActivationQuantizer,
    CodedLayer,
    CodedNetwork,
    FloatLayer,
    Layer,
    Node,
    PlaneLayer,
    Resample,
    ScaleBias,
)
from apot_export.network.bitpack import unpack
from apot_export.network.codebook import Codebook, storage_bytes
from apot_export.network.planes import pack_counts

_WORTHWHILE = 160
"""Bytes that another storage must save: what describes and aligns it takes about as many."""
_LOOKED_AT = 4096
"""Codes at the start of a layer that show how many of its codes occur; a multiple of eight."""


def packed_file_bytes(
    network: CodedNetwork,
    provenance: Mapping[str, Any],
    integer: IntegerNetwork | None = None,
    *,
    interface: Mapping[str, Any] | None = None,
    compress: bool = False,
) -> bytes:
    """Serialise a coded network: the same network and provenance give the same bytes.

    Args:
        network: The network.
        provenance: What it was made from, as JSON.
        integer: What `lower` made of the network, to be stored as a program, too. Then all codes
            are a bit stream, as the program reads them.
        interface: Inputs, outputs, preprocessing and classes; None to say nothing of them.
        compress: Entropy-code the codes of layers that get smaller by it.

    Raises:
        ValueError: The network or the provenance holds what FORMAT.md cannot store.
        IntegerError: The integer network does not fit a program, or codes cannot be compressed
            because it reads them.
    """
    require_compressible(compress=compress, integer=integer is not None)
    writer = _Writer(plain=integer is not None, compress=compress)
    names = [network.input, *(node.name for node in network.nodes)]
    content = {
        "input": {"name": network.input, "shape": list(network.input_shape)},
        "output": network.output,
        "codebooks": writer.codebooks,
        "layers": {name: writer.layer(name, layer) for name, layer in network.layers.items()},
        "nodes": [
            writer.node(node, before) for node, before in zip(network.nodes, names, strict=False)
        ],
    }
    if network.further_outputs:
        content["further_outputs"] = list(network.further_outputs)
    metadata = {
        "network": strict_json.dumps(content),
        "provenance": strict_json.dumps(provenance, sort_keys=True),
    }
    if interface is not None:
        metadata["interface"] = strict_json.dumps(interface)
    if is_of_version_3(network):
        metadata = {"format_version": str(FORMAT_VERSION), **metadata}
    tensors = writer.tensors()
    if integer is not None:
        program = program_bytes(integer, network, tensors, positions(tensors))
        tensors[INTEGER] = np.frombuffer(program, dtype=np.uint8)
    return write(metadata, tensors)


def require_compressible(*, compress: bool, integer: bool) -> None:
    """Raise `IntegerError` where codes are to be both compressed and read by an integer program."""
    if compress and integer:
        raise IntegerError(
            "An integer program reads codes where they lie, so they cannot be compressed.",
            expected="either the integer network or compressed codes",
            fix="leave out --compress or --integer",
        )


class _Writer:
    """Collects tensors and codebooks while it describes layers and nodes."""

    def __init__(self, *, plain: bool, compress: bool) -> None:
        self._plain, self._compress = plain, compress
        self.codebooks: list[dict[str, Any]] = []
        self._codebooks: list[Codebook] = []
        self._parameters: list[NDArray[np.float32]] = []
        self._floats: dict[str, NDArray[Any]] = {}
        self._octets: dict[str, NDArray[Any]] = {}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return all tensors: F32 first, so that only large ones need padding."""
        first = {PARAMETERS: np.concatenate(self._parameters)} if self._parameters else {}
        return {**first, **self._floats, **self._octets}

    def layer(self, name: str, layer: Layer) -> dict[str, Any]:
        if isinstance(layer, FloatLayer):
            self._floats[f"{name}.weight"] = layer.weights()
            return {"kind": "float"}
        if isinstance(layer, PlaneLayer):
            return self._planes(name, layer)
        return self._coded(name, layer)

    def _coded(self, name: str, layer: CodedLayer) -> dict[str, Any]:
        content, storage = layer.packed, None
        if not self._plain:
            content, storage = _smallest_codes(layer, compress=self._compress)
        self._octets[f"{name}.codes"] = content
        description: dict[str, Any] = {
            "kind": "coded",
            "shape": list(layer.shape),
            "codebook": self._index(layer.codebook),
            "values": self._run(layer.values),
            "step": layer.step,
        }
        if layer.scales is not None:
            description["scales"] = self._run(layer.scales)
        if layer.alpha is not None:
            description["alpha"] = layer.alpha
        if layer.activation is not None:
            description["activation"] = self._activation(layer.activation)
        if storage is not None:
            description["storage"] = storage
        return description

    def _activation(self, quantizer: ActivationQuantizer) -> dict[str, Any]:
        description: dict[str, Any] = {
            "codebook": self._index(quantizer.codebook),
            "alpha": float(quantizer.alpha),
        }
        if quantizer.input_steps != quantizer.codebook.denominator:
            description["input_denominator"] = quantizer.input_steps
        return description

    def _planes(self, name: str, layer: PlaneLayer) -> dict[str, Any]:
        planes = layer.planes
        counts, count_bits = pack_counts(planes.counts)
        self._octets[f"{name}.planes"] = np.concatenate([counts, planes.packed])
        description: dict[str, Any] = {
            "kind": "planes",
            "shape": list(planes.shape),
            "group_size": planes.group_size,
        }
        if count_bits != USUAL_COUNT_BITS:
            description["count_bits"] = count_bits
        if planes.position_major:
            description["position_major"] = True
        if planes.terms is None:
            description["coordinates"] = self._run(planes.coordinates)
        else:
            description["terms"] = planes.terms.shape[1]
            if planes.terms.size:
                self._octets[f"{name}.terms"] = planes.terms
        return description

    def node(self, node: Node, before: str) -> dict[str, Any]:
        description: dict[str, Any] = {
            "name": node.name,
            "operation": type(node.operation).__name__,
        }
        if node.inputs != (before,):
            description["inputs"] = list(node.inputs)
        for field in dataclasses.fields(node.operation):
            value = getattr(node.operation, field.name)
            if isinstance(node.operation, Resample):
                description[field.name] = self._run(value)
            elif isinstance(node.operation, ScaleBias):
                channels = self._channels(value)
                if channels != NEUTRAL[field.name]:
                    description[field.name] = channels
            elif value != field.default:
                description[field.name] = value
        return description

    def _channels(self, values: NDArray[np.floating]) -> float | list[int]:
        """Return one number for all channels, or the run of parameters with one a channel."""
        if values.size == 1:
            return float(np.float32(values[0]))
        return self._run(values.astype(np.float32))

    def _run(self, numbers: NDArray[np.float32]) -> list[int]:
        """Put numbers into the parameters; return where they begin and end."""
        begin = sum(run.size for run in self._parameters)
        self._parameters.append(numbers)
        return [begin, begin + numbers.size]

    def _index(self, codebook: Codebook) -> int:
        if codebook not in self._codebooks:
            self._codebooks.append(codebook)
            self.codebooks.append(dataclasses.asdict(codebook))
        return self._codebooks.index(codebook)


def _smallest_codes(
    layer: CodedLayer, *, compress: bool
) -> tuple[NDArray[np.uint8], dict[str, list[int]] | None]:
    """Return a layer's codes in their smallest storage, and that storage; None: the bit stream."""
    content: NDArray[np.uint8] = layer.packed
    storage = None
    bits, count = layer.codebook.bits, math.prod(layer.shape)
    if not compress and not _may_be_digits(content, bits, count):
        return content, storage
    codes = layer.codes
    used = np.flatnonzero(np.bincount(codes.reshape(-1))).tolist()
    if _digits.LEAST_BASE <= len(used) <= _digits.MOST_BASE:
        size = _digits.digit_bytes(len(used), count)
        if size + _WORTHWHILE <= content.size:
            content, storage = _digits.encode_digits(codes, used), {DIGITS: used}
    if compress:
        stream, coding = _rans.encode(codes, bits)
        readable = _rans.problem(stream.size, bits, codes.size, coding) is None
        if readable and stream.size + _WORTHWHILE <= content.size:
            content, storage = stream, {ENTROPY: [coding.precision, coding.lanes]}
    return content, storage


def _may_be_digits(packed: NDArray[np.uint8], bits: int, count: int) -> bool:
    """Tell from a layer's first codes whether it is worth while to look at all of them."""
    few = min(count, _LOOKED_AT)
    used = np.unique(unpack(packed[: storage_bytes((few,), bits)], bits, few)).size
    if used > _digits.MOST_BASE:
        return False
    return _digits.digit_bytes(max(used, _digits.LEAST_BASE), count) < packed.size
