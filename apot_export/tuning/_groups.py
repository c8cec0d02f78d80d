"""What there is to choose: lowerings that a runtime can run, and layers that share a winner."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from apot_export.artifacts.onnx_model.lowering import Body, bodies_of, layer_of_nodes
from apot_export.artifacts.onnx_model.targets import CPU, CUDA, OPENVINO, PORTABLE, TARGETS
from apot_export.network import CodedLayer, CodedNetwork, Convolution, Linear, Node, Shape
from apot_export.network.bounds import prove

_LOWERINGS = {
    ("onnxruntime", "cpu"): (CPU, PORTABLE),
    ("onnxruntime", "cuda"): (CUDA, PORTABLE),
    # Integer matrix products, which `cpu` is made of, OpenVINO computes without fast kernels.
    ("openvino", "cpu"): (OPENVINO, PORTABLE),
}
"""Lowerings that may win, by runtime and device. Whoever adds one to `LOWERINGS` adds it here."""


def lowerings_for(runtime: str, device: str) -> tuple[str, ...]:
    """Return the lowerings of a layer that are worth a try on a runtime and device."""
    return _LOWERINGS[runtime, device]


def targets_for(runtime: str, device: str) -> tuple[str, ...]:
    """Return those of them that a whole model can have."""
    return tuple(name for name in lowerings_for(runtime, device) if name in TARGETS)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How every layer of a model is lowered."""

    target: str
    """Of the model, and of every layer that is not named."""
    lowerings: Mapping[str, str] = field(default_factory=dict)
    """Layers of another lowering."""

    def of(self, layer: str) -> str:
        """Return the lowering of a layer."""
        return self.lowerings.get(layer, self.target)

    def changed(self, layers: Sequence[str], lowering: str) -> Plan:
        """Return the plan with other lowerings of some layers."""
        others = {**self.lowerings, **dict.fromkeys(layers, lowering)}
        kept = {layer: other for layer, other in others.items() if other != self.target}
        return Plan(target=self.target, lowerings=kept)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Layers of one kind, which will have the same winner: they are lowered together."""

    layers: tuple[str, ...]
    kind: str
    """As people read it: "3x3, 64 to 128, stride 2, 28x28"."""
    same_as: Mapping[str, str]
    """The first of the lowerings that give these layers the same bodies, by lowering."""
    operations: int
    """Multiplications and additions of all its layers for one image."""

    @property
    def candidates(self) -> tuple[str, ...]:
        """Lowerings that differ for these layers."""
        return tuple(dict.fromkeys(self.same_as.values()))


def group_layers(network: CodedNetwork, lowerings: Sequence[str]) -> list[Group]:
    """Group a network's weighted layers; those with most operations come first.

    Layers are of one kind where their shapes, geometry and code widths are the same, and where each
    lowering gives them the same bodies: a proof can hold for the weights of one layer alone.

    Args:
        network: The network.
        lowerings: Of a layer, the preferred one first.

    Raises:
        BoundError: A layer's accumulator cannot be proven exact.
    """
    proofs = prove(network)
    bodies = {name: bodies_of(network, proofs, name) for name in lowerings}
    members: dict[str, list[Node]] = {}
    owners = layer_of_nodes(network)
    for node in network.nodes:
        if node.name in owners:
            members.setdefault(owners[node.name], []).append(node)
    kinds: dict[str, list[str]] = {}
    for layer, nodes in members.items():
        kinds.setdefault(_kind_key(network, layer, nodes, bodies), []).append(layer)
    groups = []
    for layers in kinds.values():
        nodes = members[layers[0]]
        groups.append(
            Group(
                layers=tuple(layers),
                kind=_described(network, nodes),
                same_as=_same_as(nodes, bodies),
                operations=len(layers) * _operations(network, nodes),
            )
        )
    return sorted(groups, key=lambda group: -group.operations)


def _weighted(nodes: Sequence[Node]) -> list[tuple[Node, Convolution | Linear]]:
    return [(n, n.operation) for n in nodes if isinstance(n.operation, (Convolution, Linear))]


def _kind_key(
    network: CodedNetwork,
    layer: str,
    nodes: Sequence[Node],
    bodies: Mapping[str, Mapping[str, Body]],
) -> str:
    """Return what layers of one kind have in common."""
    found = network.layers[layer]
    codes: tuple[object, ...] = (type(found).__name__, found.shape)
    if isinstance(found, CodedLayer):
        inputs = found.activation.codebook if found.activation is not None else None
        codes += (found.codebook.bits, inputs.bits if inputs is not None else None)
    places = [
        (
            type(node.operation).__name__,
            [network.shapes[name] for name in (*node.inputs, node.name)],
            [body.get(node.name) for body in bodies.values()],
        )
        for node in nodes
    ]
    geometry = [
        (operation.stride, operation.padding, operation.dilation, operation.groups)
        for _, operation in _weighted(nodes)
        if isinstance(operation, Convolution)
    ]
    return repr((codes, places, geometry))


def _same_as(nodes: Sequence[Node], bodies: Mapping[str, Mapping[str, Body]]) -> dict[str, str]:
    """Return by lowering the first one that gives a layer's nodes the same bodies."""
    own = {name: [found.get(node.name) for node in nodes] for name, found in bodies.items()}
    return {
        name: next(first for first, others in own.items() if others == mine)
        for name, mine in own.items()
    }


def _operations(network: CodedNetwork, nodes: Sequence[Node]) -> int:
    """Return the multiplications and additions of a layer for one image."""
    return sum(
        math.prod(network.shapes[node.name]) * math.prod(network.layers[operation.layer].shape[1:])
        for node, operation in _weighted(nodes)
    )


def _described(network: CodedNetwork, nodes: Sequence[Node]) -> str:
    """Return a layer's kind as people read it."""
    node, operation = _weighted(nodes)[0]
    outputs, inputs, *kernel = network.layers[operation.layer].shape
    if isinstance(operation, Linear):
        return f"matrix, {inputs} to {outputs}"
    words = [_by(kernel), f"{inputs * operation.groups} to {outputs}"]
    if operation.groups != 1:
        words.append(f"{operation.groups} groups")
    if operation.stride != (1, 1):
        height, width = operation.stride
        words.append(f"stride {height if height == width else _by(operation.stride)}")
    if operation.dilation != (1, 1):
        words.append(f"dilation {_by(operation.dilation)}")
    return ", ".join([*words, f"at {_by(network.shapes[node.name][1:])}"])


def _by(extents: Shape | Sequence[int]) -> str:
    return "x".join(map(str, extents))
